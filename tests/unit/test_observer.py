"""The rule by which one orchestrator holds another to be dead, and the value types beside it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgconductor.domain.orchestrators import Beat, Recovery, StaleObserver

THRESHOLD = 30.0
A, B, C, D, E, F = (UUID(int=number) for number in range(1, 7))


def observer() -> StaleObserver:
    return StaleObserver(timedelta(seconds=THRESHOLD))


def late(*orchestrators: UUID, number: int = 7) -> list[Beat]:
    return [Beat(one, number, late=True) for one in orchestrators]


def watch(watcher: StaleObserver, beats: list[Beat], *times: float) -> frozenset[UUID]:
    found: frozenset[UUID] = frozenset()
    for now in times:
        found = watcher.observe(beats, now)
    return found


def test_a_dead_one_is_found_after_the_threshold_and_not_before() -> None:
    watcher = observer()
    assert watch(watcher, late(A), 0, 10, 20, 29.9) == frozenset()
    assert watcher.observe(late(A), 30.0) == {A}
    assert watcher.observe(late(A), 35.0) == {A}


def test_one_look_proves_nothing() -> None:
    assert observer().observe(late(A, B, C), 1e9) == frozenset()


def test_who_beats_lives() -> None:
    """Also if the database's clock says that it is late: that clock may have jumped."""
    watcher = observer()
    for step in range(20):
        assert watcher.observe(late(A, number=step), step * 10.0) == frozenset()


def test_who_is_not_late_lives() -> None:
    """Also if its number stands still: the database's clock has to agree."""
    watcher = observer()
    beats = [Beat(A, 7, late=False)]
    assert watch(watcher, beats, 0, 20, 40, 60, 80) == frozenset()
    # The observer has watched long enough already: as soon as it is late, it is dead.
    assert watcher.observe(late(A), 90.0) == {A}


def test_a_beat_starts_the_watch_anew() -> None:
    watcher = observer()
    watch(watcher, late(A), 0, 15)
    watch(watcher, late(A, number=8), 25, 40, 54.9)
    assert watcher.observe(late(A, number=8), 55.0) == {A}


def test_a_number_that_goes_back_is_a_beat_too() -> None:
    """A failover may rewind the row; somebody wrote it."""
    watcher = observer()
    watch(watcher, late(A), 0, 15)
    assert watch(watcher, late(A, number=3), 30, 45) == frozenset()


def test_after_an_outage_nobody_is_dead_before_a_threshold_of_watching() -> None:
    """Every heartbeat is old when the database comes back, and the fleet is healthy."""
    watcher = observer()
    watch(watcher, late(A, B), 0, 5)
    # No look for ten minutes: what was seen before proves nothing.
    assert watch(watcher, late(A, B), 605, 620, 634.9) == frozenset()
    assert watcher.observe(late(A, B), 635.0) == {A, B}


def test_a_gap_of_just_the_threshold_is_no_gap() -> None:
    watcher = observer()
    assert watch(watcher, late(A), 0, 30.0) == {A}
    watcher = observer()
    assert watch(watcher, late(A), 0, 30.1) == frozenset()


def test_a_jump_of_the_databases_clock_evicts_nobody() -> None:
    """I6: all are late at once, and all go on beating."""
    watcher = observer()
    fleet = [A, B, C, D]
    for step in range(10):
        beats = [Beat(one, step, late=step >= 3) for one in fleet]
        assert watcher.observe(beats, step * 5.0) == frozenset()


def test_an_orchestrator_that_appears_later_is_watched_from_then_on() -> None:
    watcher = observer()
    watch(watcher, late(A), 0, 20)
    assert watcher.observe(late(A, B), 30.0) == {A}
    assert watch(watcher, late(A, B), 45, 59.9) == {A}
    assert watcher.observe(late(A, B), 60.0) == {A, B}


def test_one_that_went_and_came_back_is_watched_anew() -> None:
    watcher = observer()
    watch(watcher, late(A), 0, 20)
    watcher.observe([], 25.0)
    assert watcher.observe(late(A), 30.0) == frozenset()


@pytest.mark.parametrize(
    ("dead", "alive", "at_once"),
    [
        ([A], [], True),
        ([A, B], [], True),
        ([A, B], [C], True),
        ([A, B, C], [], False),
        ([A, B, C], [D, E], False),
        ([A, B, C], [D, E, F], True),
        ([A, B, C, D], [E, F], False),
    ],
)
def test_a_majority_that_looks_dead_is_watched_twice_as_long(
    dead: list[UUID], alive: list[UUID], at_once: bool
) -> None:
    """More than two, and more than half: something else is likelier."""
    watcher = observer()

    def look(now: float) -> frozenset[UUID]:
        beating = [Beat(one, int(now), late=False) for one in alive]
        return watcher.observe([*late(*dead), *beating], now)

    for now in (0.0, 15.0, 29.0):
        assert look(now) == frozenset()
    assert look(30.0) == (set(dead) if at_once else frozenset())
    for now in (45.0, 59.9):
        assert look(now) == (set(dead) if at_once else frozenset())
    assert look(60.0) == set(dead)


def test_behind_the_brake_those_watched_long_enough_go_first() -> None:
    watcher = observer()
    watch(watcher, late(A), 0, 20)
    watch(watcher, late(A, B, C), 30, 45)
    assert watcher.observe(late(A, B, C), 60.0) == {A}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 60),
            st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=4),
        ),
        max_size=25,
    )
)
def test_nobody_dies_unwatched(looks: list[tuple[float, list[tuple[bool, bool]]]]) -> None:
    """Whoever is declared dead is late now, and has been seen at this number, without a gap, for
    at least the threshold.
    """
    watcher = observer()
    now = 0.0
    numbers = [0, 0, 0, 0]
    history: list[tuple[float, list[int]]] = []
    for pause, fleet in looks:
        now += pause
        numbers = [n + beats for n, (beats, _) in zip(numbers, fleet, strict=True)]
        beats = [
            Beat(UUID(int=index + 1), number, is_late)
            for index, (number, (_, is_late)) in enumerate(zip(numbers, fleet, strict=True))
        ]
        history.append((now, list(numbers)))
        for dead in watcher.observe(beats, now):
            assert beats[dead.int - 1].late
            assert watched_for(history, dead.int - 1) >= THRESHOLD


def watched_for(history: list[tuple[float, list[int]]], index: int) -> float:
    """How long the last number has been seen at every look, with no pause above the threshold."""
    (now, numbers), *earlier = reversed(history)
    since = now
    for then, seen in earlier:
        if seen[index] != numbers[index] or since - then > THRESHOLD:
            break
        since = then
    return now - since


def test_recoveries_add_up() -> None:
    one = Recovery(frozenset({A}), available=1, failed=2, left=frozenset({B}))
    two = Recovery(frozenset({A, B}), available=10, cancelled=5)
    both = one + two
    assert both == Recovery(frozenset({A, B}), available=11, failed=2, cancelled=5)
    assert both.executions == 18
    assert Recovery().executions == 0
