"""The model of the state machine over the whole engine: it must itself know right from wrong."""

from __future__ import annotations

import pytest

from tests.faults.programs import Op, Program
from tests.faults.programs_model import Ended, Noted, expected, prefix_faults

STEP, FLOP = Op(kind="step"), Op(kind="fail", number=1)
CHILD, STRICT = Op(kind="child"), Op(kind="child", strict=True)
BOTH = Op(kind="gather", branches=[CHILD, STRICT])
DONE = Noted({"values": [7]}, child="a child")
LATE, CANCELLED = Noted(error_type="(timeout)"), Noted(error_type="(cancelled)")


@pytest.mark.parametrize(
    ("ops", "record", "end"),
    [
        ([STEP], {"0": Noted(3)}, Ended("completed", 1, [3], reached=1)),
        ([FLOP, STEP], {"1": Noted(3)}, Ended("completed", 2, [None, 3], reached=2)),
        ([Op(kind="fail", number=3), STEP], {}, Ended("failed", 3, [], "Flop", 1)),
        ([FLOP, Op(kind="fail", number=0)], {}, Ended("failed", 2, [], "DoNotRetry", 2)),
        ([CHILD], {"0": DONE}, Ended("completed", 1, [["done", [7]]], reached=1)),
        ([CHILD], {"0": LATE}, Ended("completed", 1, [["WaitTimeout"]], reached=1)),
        ([STRICT, STEP], {"0": CANCELLED}, Ended("failed", 1, [], "ChildCancelled", 1)),
        (
            [FLOP, BOTH],
            {"1.0": LATE, "1.1": Noted(error_type="KeyError")},
            Ended("failed", 2, [], "ChildFailed", 2),
        ),
    ],
)
def test_how_a_handler_ends(ops: list[Op], record: dict[str, Noted], end: Ended) -> None:
    assert expected(Program(ops=ops), record) == end


@pytest.mark.parametrize("record", [{}, {"1.0": DONE}, {"1.0": DONE, "1.1": Noted(pending=True)}])
def test_a_handler_that_has_not_ended(record: dict[str, Noted]) -> None:
    with pytest.raises(KeyError):
        expected(Program(ops=[FLOP, BOTH]), record)


@pytest.mark.parametrize(
    ("ops", "record"),
    [
        ([STEP], {"1": Noted(3)}),
        ([CHILD, STEP], {"1": Noted(3)}),
        ([CHILD, STEP], {"0": Noted(pending=True), "1": Noted(3)}),
        ([BOTH, STEP], {"0.0": DONE, "1": Noted(3)}),
        ([Op(kind="fail", number=3), STEP], {"1": Noted(3)}),
    ],
)
def test_what_cannot_be_on_record(ops: list[Op], record: dict[str, Noted]) -> None:
    assert list(prefix_faults(Program(ops=ops), record))


def test_what_can_be_on_record() -> None:
    program = Program(ops=[FLOP, Op(kind="shaky", number=2), BOTH])
    for record in (
        {},
        {"1~1": Noted(pending=True)},
        {"1~1": Noted(), "1": Noted(3), "2.1": Noted(pending=True)},
    ):
        assert list(prefix_faults(program, record)) == []
