"""Where fetches begin: past what was taken, if looking at it again takes long."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from pgconductor.domain.claims import Claim, Fetched, Position
from pgconductor.runtime.frontier import Frontier

NOW = datetime.now(UTC)
OWNER = Claim(uuid4(), 1)


def batch(*numbers: int, priority: int = 0) -> list[Fetched]:
    return [
        Fetched(UUID(int=n), OWNER, "task", "q", None, 1, 3, 0, 3, priority, NOW, NOW)
        for n in numbers
    ]


def test_where_it_is_quick_the_whole_queue_is_looked_at() -> None:
    """Semantics 2: priority decides, and what is given back is seen at once."""
    frontier = Frontier()
    for second in range(10):
        assert frontier.place(second) is None
        frontier.fetched(batch(second), after=None, began=second, ended=second + 0.001)
        assert frontier.patience(second) >= 1


def test_where_it_is_slow_fetches_begin_where_the_last_one_ended() -> None:
    frontier = Frontier()
    frontier.fetched(batch(1, 2, priority=3), after=None, began=0.0, ended=1.0)
    place = frontier.place(1.0)
    assert place == Position(-3, NOW, UUID(int=2))
    frontier.fetched(batch(3), after=place, began=1.0, ended=1.1)
    assert frontier.place(1.1) == Position(0, NOW, UUID(int=3))
    frontier.fetched([], after=frontier.place(1.2), began=1.2, ended=1.3)
    assert frontier.place(1.3) == Position(0, NOW, UUID(int=3))


def test_looks_at_the_whole_queue_come_regularly_and_take_a_tenth_of_the_time() -> None:
    frontier = Frontier()
    now = whole = 0.0
    while now < 1_000.0:
        after = frontier.place(now)
        took = 0.5 if after is None else 0.01
        whole += took if after is None else 0.0
        frontier.fetched(batch(1), after=after, began=now, ended=now + took)
        now += took
    assert 0.08 < whole / now < 0.12


def test_even_the_slowest_look_is_repeated_within_seconds() -> None:
    """I9: nothing that came in ahead waits for long."""
    frontier = Frontier()
    frontier.fetched(batch(1), after=None, began=0.0, ended=30.0)
    assert frontier.place(39.9) is not None
    assert frontier.place(40.0) is None


def test_a_worker_comes_back_in_time_for_what_it_has_not_seen() -> None:
    frontier = Frontier()
    frontier.fetched(batch(1), after=None, began=0.0, ended=0.2)
    frontier.fetched([], after=frontier.place(0.3), began=0.3, ended=0.31)
    assert abs(frontier.patience(0.4) - 1.6) < 0.001
    frontier.fetched([], after=None, began=2.0, ended=2.2)
    assert frontier.patience(2.3) > 1, "it has just looked at everything"


def test_who_is_hasty_looks_at_everything_as_soon_as_nothing_is_found() -> None:
    """A drain ends only when the whole queue was found empty."""
    frontier = Frontier()
    frontier.fetched(batch(1), after=None, began=0.0, ended=1.0)
    assert frontier.place(1.0, hasty=True) is not None
    frontier.fetched([], after=frontier.place(1.0), began=1.0, ended=1.1)
    assert frontier.place(1.1, hasty=True) is None
    assert frontier.place(1.1) is not None
