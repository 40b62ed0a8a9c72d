"""What each SQLSTATE, and each class of them, means for what was sent."""

from __future__ import annotations

import pytest

from pgconductor.domain.sqlstates import CAUSES, Cause, cause_of

#: A code of every class that the server has, and every code that differs from its class.
EXPECTED = {
    "01000": Cause.OTHER,
    "02000": Cause.OTHER,
    "03000": Cause.OTHER,
    "08006": Cause.AWAY,
    "08P01": Cause.AWAY,
    "09000": Cause.RULE,
    "0A000": Cause.SCHEMA,
    "0Z002": Cause.OTHER,
    "20000": Cause.OTHER,
    "21000": Cause.OTHER,
    "22003": Cause.VALUE,
    "22008": Cause.VALUE,
    "22021": Cause.VALUE,
    "22P02": Cause.VALUE,
    "22P05": Cause.VALUE,
    "23502": Cause.VALUE,
    "23503": Cause.RULE,
    "23505": Cause.RULE,
    "23514": Cause.VALUE,
    "23P01": Cause.RULE,
    "24000": Cause.OTHER,
    "25001": Cause.OTHER,
    "25006": Cause.AWAY,
    "25P02": Cause.OTHER,
    "26000": Cause.OTHER,
    "27000": Cause.RULE,
    "28P01": Cause.OTHER,
    "2F000": Cause.OTHER,
    "34000": Cause.OTHER,
    "38000": Cause.RULE,
    "39P01": Cause.RULE,
    "3D000": Cause.OTHER,
    "3F000": Cause.SCHEMA,
    "40001": Cause.CONFLICT,
    "40003": Cause.CONFLICT,
    "40P01": Cause.CONFLICT,
    "42501": Cause.OTHER,
    "42601": Cause.OTHER,
    "42703": Cause.SCHEMA,
    "42883": Cause.SCHEMA,
    "42P01": Cause.SCHEMA,
    "44000": Cause.RULE,
    "53100": Cause.FULL,
    "53200": Cause.SLOW,
    "53300": Cause.AWAY,
    "53400": Cause.AWAY,
    "54000": Cause.FULL,
    "54001": Cause.VALUE,
    "54011": Cause.VALUE,
    "55006": Cause.OTHER,
    "55P03": Cause.LOCKED,
    "57000": Cause.OTHER,
    "57014": Cause.SLOW,
    "57P01": Cause.AWAY,
    "57P02": Cause.AWAY,
    "57P03": Cause.AWAY,
    "57P04": Cause.OTHER,
    "57P05": Cause.AWAY,
    "58030": Cause.OTHER,
    "72000": Cause.OTHER,
    "F0000": Cause.OTHER,
    "HV000": Cause.OTHER,
    "P0000": Cause.RULE,
    "P0001": Cause.VALUE,
    "XX000": Cause.OTHER,
    "XX002": Cause.OTHER,
}


@pytest.mark.parametrize(("sqlstate", "expected"), EXPECTED.items())
def test_a_code_has_a_cause(sqlstate: str, expected: Cause) -> None:
    assert cause_of(sqlstate) is expected


def test_every_entry_of_the_table_is_tried() -> None:
    untried = {key for key in CAUSES if not any(code.startswith(key) for code in EXPECTED)}
    assert not untried


def test_a_full_queue_is_told_from_a_value_that_is_too_large() -> None:
    """Both have the code of a program limit, and words in the server's language."""
    assert cause_of("54000", "async.c") is Cause.FULL
    assert cause_of("54000", "nbtutils.c") is Cause.VALUE
    assert cause_of("54000") is Cause.FULL, "when in doubt, it is nobody's fault"


@pytest.mark.parametrize("cause", Cause)
def test_only_what_may_be_about_a_part_is_taken_apart(cause: Cause) -> None:
    everybodys = {Cause.CONFLICT, Cause.AWAY, Cause.FULL}
    assert cause.of_some == (cause not in everybodys)
