"""What is accepted at the boundary."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgconductor.domain import limits
from pgconductor.exceptions import InvalidInput, InvalidName, NaiveDatetime, PgconductorError

NOT_STRINGS: list[Any] = [None, 1, b"x", ["x"], object()]
TEXTS = st.text(st.characters() | st.sampled_from("\x00\ud800aZ09_-.:/ \n"), max_size=140)
ALL_ERRORS = (InvalidInput, ValueError, PgconductorError)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "default", "a-b", "a_b", "q9", "a" + "-" * 47])
def test_queues(name: str) -> None:
    assert limits.check_queue(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "9a", "-a", "_a", "A", "aB", "a b", "a.b", "a\n", "a\x00", "ä", "\u0430", "a" * 49,
     "pg'; DROP TABLE x --", *NOT_STRINGS],

)  # fmt: skip
def test_no_queues(name: Any) -> None:
    with pytest.raises(InvalidName, match="cannot name a queue; use a lower-case letter") as caught:
        limits.check_queue(name)
    assert caught.value.field == "queue"


@pytest.mark.parametrize("name", ["a", "_", "Greet", "pkg.mod:Class/method-2", "a" * 128])
def test_tasks(name: str) -> None:
    assert limits.check_task_key(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "9a", ".a", "-a", "a b", "a\t", "a\n", "a,b", "é", "a" * 129, "a\u202e", *NOT_STRINGS],

)  # fmt: skip
def test_no_tasks(name: Any) -> None:
    with pytest.raises(InvalidName, match="cannot name a task") as caught:
        limits.check_task_key(name, "name")
    assert caught.value.field == "name"


@given(TEXTS)
def test_names_are_those_that_the_database_accepts(text: str) -> None:
    """The same rules as the CHECK constraints; ``\\n`` at the end is what ``$`` lets through."""
    rules: list[tuple[Callable[[object], str], str]] = [
        (limits.check_queue, r"[a-z][a-z0-9_-]{0,47}"),
        (limits.check_task_key, r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}"),
    ]
    for check, rule in rules:
        fits = re.fullmatch(rule, text) is not None
        try:
            accepted = check(text) == text
        except InvalidName:
            accepted = False
        assert accepted is fits


@pytest.mark.parametrize("key", ["k", "order-1", "a b", "ü", "中" * 170, "x" * 512, "'\"\\"])
def test_dedupe_keys(key: str) -> None:
    assert limits.check_dedupe_key(key) == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("x" * 513, "longer than 512 bytes; hash it"),
        ("中" * 171, "longer than 512 bytes"),
        ("a\n", "control or otherwise invisible"),
        ("a\u200bb", "invisible"),
        ("\u202eabc", "invisible"),
        ("a\x00", "NUL"),
        ("\ud800", "lone surrogate at position 0"),
        (5, "a string is due, not int"),
        (None, "a string is due"),
    ],
)
def test_no_dedupe_keys(key: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        limits.check_dedupe_key(key)
    assert caught.value.field == "dedupe_key"


@given(TEXTS)
def test_a_dedupe_key_fits_its_column_or_is_refused(text: str) -> None:
    try:
        key = limits.check_dedupe_key(text)
    except InvalidInput:
        return
    assert 1 <= len(key.encode()) <= 512
    assert "\x00" not in key


@given(TEXTS)
def test_text_can_be_stored_or_is_refused(text: str) -> None:
    try:
        assert limits.check_text(text, "reason") == text
    except InvalidInput:
        return
    assert "\x00" not in text.encode().decode()


# --- time ----------------------------------------------------------------------------------------


def test_instants() -> None:
    for when in (
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(8999, 12, 31, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=-12))),
    ):
        assert limits.check_run_at(when) is when


class Undecided(tzinfo):
    def utcoffset(self, dt: datetime | None, /) -> None:
        return None

    dst = utcoffset

    def tzname(self, dt: datetime | None, /) -> str:
        return "undecided"


@pytest.mark.parametrize(
    "when",
    [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=Undecided())],  # noqa: DTZ001 - the point
    ids=["none", "undecided"],
)
def test_naive_instants(when: datetime) -> None:
    with pytest.raises(NaiveDatetime, match=r"give it a time zone, as in datetime.now\(UTC\)"):
        limits.check_run_at(when)


@pytest.mark.parametrize(
    "when",
    [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), "2026-01-01", 0, None,
     datetime(2026, 1, 1, tzinfo=UTC).date()],

)  # fmt: skip
def test_no_instants(when: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        limits.check_run_at(when, "created_after")
    assert caught.value.field == "created_after"


zones = st.timedeltas(
    timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)
).map(timezone)  # fmt: skip


@given(st.datetimes(timezones=zones))
def test_any_aware_datetime_is_taken_or_refused_with_our_error(when: datetime) -> None:
    try:
        assert limits.check_run_at(when) is when
    except InvalidInput:
        assert not datetime(1970, 1, 2, tzinfo=UTC) < when < datetime(8999, 12, 30, tzinfo=UTC)


@given(st.timedeltas())
def test_delays(delay: timedelta) -> None:
    fits = timedelta(0) <= delay <= limits.MAX_DELAY
    for check, accepted in (
        (limits.check_delay, fits),
        (limits.check_duration, fits and delay > timedelta(0)),
    ):
        try:
            assert check(delay, "delay") == delay
            assert accepted
        except InvalidInput:
            assert not accepted


@pytest.mark.parametrize("delay", [0, 1.5, "1 h", None, True])
def test_no_delays(delay: Any) -> None:
    with pytest.raises(InvalidInput, match="a timedelta is due"):
        limits.check_delay(delay)


# --- numbers -------------------------------------------------------------------------------------


@given(st.integers())
def test_counts_and_priorities(value: int) -> None:
    ranges: list[tuple[Callable[[], int], bool]] = [
        (lambda: limits.check_count(value, "n"), 1 <= value <= limits.MAX_ATTEMPTS),
        (lambda: limits.check_count(value, "n", least=-3, most=3), -3 <= value <= 3),
        (lambda: limits.check_priority(value), abs(value) <= limits.MAX_PRIORITY),
    ]
    for check, fits in ranges:
        try:
            assert check() == value
            assert fits
        except InvalidInput:
            assert not fits


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None])
def test_no_counts(value: Any) -> None:
    """A bool is no number, whatever Python thinks."""
    with pytest.raises(InvalidInput, match="a whole number is due"):
        limits.check_count(value, "n")
    with pytest.raises(InvalidInput, match="priority"):
        limits.check_priority(value)


def test_refusals_are_value_errors_of_ours() -> None:
    for error in ALL_ERRORS:
        with pytest.raises(error):
            limits.check_queue("")
