"""What has come of all executions, against what the model allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tests.faults.fleet import Fleet
from tests.faults.programs import BELL, Op, Program, keys_of
from tests.faults.programs_model import MAX_CRASHES, Ended, Noted, expected, prefix_faults
from tests.faults.records import Found, Row, Step, read

__all__ = ["FINISHED", "Ledger", "judge"]

FINISHED = ("completed", "failed", "cancelled")


@dataclass
class Ledger:
    """What the machine has done to executions, for the model.

    Attributes:
        roots: Those that it has invoked or forked.
        cancelled: Those that it was told it had cancelled, since the operator's last retry.
        childless: Those that it has ever cancelled without their children.
        retried: Those that an operator has retried.
        crashes: How often each has crashed its process, since then.
        dropped: How often what an execution had done itself was dropped from its record, by key.
        former: Children of dropped waits.
        ends: What executions had come to when they were retried.
        emitted: The events that the machine has emitted, in order.
    """

    roots: set[UUID] = field(default_factory=set[UUID])
    cancelled: set[UUID] = field(default_factory=set[UUID])
    childless: set[UUID] = field(default_factory=set[UUID])
    retried: set[UUID] = field(default_factory=set[UUID])
    crashes: Counter[UUID] = field(default_factory=Counter[UUID])
    dropped: Counter[tuple[UUID, str]] = field(default_factory=Counter[tuple[UUID, str]])
    former: set[UUID] = field(default_factory=set[UUID])
    ends: dict[UUID, list[Row]] = field(default_factory=dict[UUID, list[Row]])
    emitted: list[UUID] = field(default_factory=list[UUID])


def judge(fleet: Fleet, ledger: Ledger) -> Found:
    """Everything has finished: see that it has finished as the model allows."""
    found = read(fleet)
    for one, row in found.executions.items():
        try:
            _judge_execution(found, ledger, row)
        except AssertionError as error:
            steps = "\n".join(f"  {it}" for it in found.steps.get(one, {}).values())
            error.add_note(f"{row}\n{steps}")
            raise
    _judge_family(found, ledger)
    _judge_events(found, ledger)
    assert not fleet.notes.faults, fleet.notes.faults
    return found


def _noted(step: Step) -> Noted:
    child = None if step["child_id"] is None else str(step["child_id"])
    return Noted(step["result"], step["error_type"], step["pending"], child)


def _judge_execution(found: Found, ledger: Ledger, row: Row) -> None:
    one: UUID = row["id"]
    program = Program.model_validate(row["payload"])
    record = {key: _noted(step) for key, step in found.steps.get(one, {}).items()}
    assert row["state"] in FINISHED, row
    assert (row["locked_by"], row["claim_number"]) == (None, None), row
    assert list(prefix_faults(program, record)) == []
    assert row["crashes"] == ledger.crashes[one], (row["crashes"], ledger.crashes[one])
    _judge_state(ledger, row, program, record)
    _judge_once(found, ledger, row, program)
    own = found.own(one)
    for key, op, _ in keys_of(program):
        step = found.steps.get(one, {}).get(key)
        if step is None or step["pending"]:
            continue
        if op.kind in ("sleep", "child", "wait"):
            assert step["ended_at"] is not None, "it has not ended, and does not wait"
        if key in own:
            _judge_step(found, ledger, row, op, step)


def _judge_state(ledger: Ledger, row: Row, program: Program, record: Mapping[str, Noted]) -> None:
    one: UUID = row["id"]
    state: str = row["state"]
    most = MAX_CRASHES[row["task_key"]]
    assert (state == "cancelled") >= (one in ledger.cancelled), "its cancellation was promised"
    if state == "cancelled":
        assert row["attempts"] <= row["max_attempts"]
        reasons = ["its parent was cancelled", "it did not end in time"]
        assert one in ledger.cancelled or row["cancel_reason"] in reasons, "nobody has asked for it"
        return
    if row["last_error_type"] == "ProcessCrashed" and state == "failed":
        assert row["crashes"] == most
        return
    assert row["crashes"] < most, "it has crashed too often to have gone on"
    try:
        end = expected(program, record)
    except KeyError as missing:
        raise AssertionError(f"it has {state} without {missing} on record") from missing
    assert (state, row["attempts"]) == (end.state, end.attempts), end
    if state == "failed":
        assert row["last_error_type"] == end.error_type, end
    else:
        assert row["result"] == {"values": end.values}, end
    _judge_end(end, program, record)


def _judge_end(end: Ended, program: Program, record: Mapping[str, Noted]) -> None:
    """Nothing is on record that it cannot have come to."""
    places = {key: place for key, _, place in keys_of(program)}
    beyond = [key for key in record if places[key.partition("~")[0]] >= end.reached]
    assert not beyond, beyond


def _judge_once(found: Found, ledger: Ledger, row: Row, program: Program) -> None:
    """Effects of transactions, and events, are there as often as they were recorded: once."""
    one: UUID = row["id"]
    own, emits = found.own(one), found.emits
    for key, op, _ in keys_of(program):
        times = ledger.dropped[one, key] + (key in own)
        if op.kind in ("transact", "block"):
            assert found.effects[one, key] == times, f"{key}: {found.effects[one, key]} effects"
        elif op.kind == "emit":
            assert emits[one, key] == times, f"{key}: {emits[one, key]} events"
    ended = program.closing and row["state"] == "completed"
    assert found.effects[one, "end"] == ended, found.effects[one, "end"]


def _judge_step(found: Found, ledger: Ledger, row: Row, op: Op, step: Step) -> None:
    """What a handler was told of others is what they have come to."""
    error: str | None = step["error_type"]
    if error == "(timeout)":
        assert op.kind in ("child", "wait")
        assert op.seconds is not None
        assert step["wake_at"] <= step["ended_at"], "too soon"
        if op.kind == "child":
            _judge_late(found, ledger, row, step)
    elif op.kind == "sleep":
        assert step["wake_at"] <= step["ended_at"], "too soon"
    elif op.kind == "child":
        child = found.executions[step["child_id"]]
        ends = [*ledger.ends.get(child["id"], []), child]
        told = {"(cancelled)": "cancelled", None: "completed"}.get(error, "failed")
        assert any(
            end["state"] == told
            and (told != "failed" or end["last_error_type"] == error)
            and (told != "completed" or end["result"] == step["result"])
            for end in ends
        ), (step, ends)
        # One that was retried after its parent was told is nobody's to wait for.
        assert child["parent_key"] == step["key"] or (
            child["parent_key"] is None and child["id"] in ledger.ends
        )
        assert child["parent_id"] == row["id"]
    elif op.kind == "wait":
        _judge_event(found, ledger, row, op, step)
    elif op.kind == "patched":
        assert step["result"] is True


def _judge_late(found: Found, ledger: Ledger, row: Row, step: Step) -> None:
    """A handler that was told of a late child has cancelled it before it ended."""
    child = found.executions[step["child_id"]]
    by_itself = row["state"] == "completed" or row["last_error_type"] == "WaitTimeout"
    if not by_itself or row["state"] == "cancelled" or child["id"] in ledger.retried:
        return
    late = child["finished_at"] > row["finished_at"]
    assert not late or child["state"] == "cancelled", child


def _judge_event(found: Found, ledger: Ledger, row: Row, op: Op, step: Step) -> None:
    """It was the first that came into question."""
    ids = [one["id"] for one in found.events]
    taken = {it["event_id"] for it in found.steps[row["id"]].values() if it is not step}
    assert step["event_id"] not in taken, "taken twice"
    event = found.events[ids.index(step["event_id"])]
    assert event["payload"] == step["result"]

    def matches(one: Row) -> bool:
        in_time: bool = one["emitted_at"] >= row["created_at"]
        return in_time and op.number in (None, one["payload"]["number"])

    assert event["name"] == BELL
    assert matches(event)
    if event["id"] not in ledger.emitted or row["id"] in ledger.retried:
        return
    # The machine's own were committed one after the other.
    for one in ledger.emitted[: ledger.emitted.index(event["id"])]:
        earlier = found.events[ids.index(one)]
        assert not matches(earlier) or one in taken, f"{one} was there before"


def _judge_family(found: Found, ledger: Ledger) -> None:
    """Each child is one that somebody's record tells of, and went with its parent."""
    recorded = Counter(
        step["child_id"]
        for one in found.executions
        for step in found.own(one).values()
        if step["child_id"] is not None
    )
    assert set(recorded.values()) <= {1}, recorded
    everybody = set(recorded) | ledger.former | ledger.roots
    assert set(found.executions) == everybody, set(found.executions) ^ everybody
    for one, row in found.executions.items():
        parent = found.executions.get(row["parent_id"])
        if parent is None or row["parent_key"] is None or parent["state"] != "cancelled":
            continue
        if one in ledger.retried or parent["id"] in ledger.retried | ledger.childless:
            continue
        late = row["finished_at"] > parent["cancel_requested_at"]
        assert not late or row["state"] == "cancelled", (row, parent)


def _judge_events(found: Found, ledger: Ledger) -> None:
    """No event is there that nobody has emitted."""
    others = [one["id"] for one in found.events if "by" not in one["payload"]]
    assert set(others) == set(ledger.emitted)
    keys = {(UUID(one["payload"]["by"])) for one in found.events if "by" in one["payload"]}
    assert keys <= set(found.executions)
