"""Which waits take which events, in memory: the counterpart of ``match_events``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from pgconductor.domain.steps import StepKind
from pgconductor.testing.matching import Paths, decoded, matches, paths_of, values_at
from pgconductor.testing.rows import EventRow, ExecutionRow, StepRow, Tables

__all__ = ["hopeful", "matched_events"]

_Probe: TypeAlias = tuple[object, ...]


class _Hopes:
    """Waits for events of one name, looked up by the values that their matches ask for.

    Args:
        waits: Those waits, in the order in which they began.
    """

    def __init__(self, waits: Iterable[StepRow]) -> None:
        # By where the values are, by the values, by the match as it is written.
        self._lines: dict[Paths, dict[_Probe, dict[str | None, list[StepRow]]]] = {}
        for wait in waits:
            whole = None if wait.match is None else decoded(wait.match)
            paths = paths_of(whole)
            there = self._lines.setdefault(paths, {}).setdefault(values_at(whole, paths), {})
            there.setdefault(wait.match, []).append(wait)

    def for_event(self, event: EventRow) -> Iterator[list[StepRow]]:
        """The waits that an event matches: lists of those with the same match, not to be copied."""
        whole = None if event.payload is None else decoded(event.payload)
        for paths, by_values in self._lines.items():
            for match, waits in by_values.get(values_at(whole, paths), {}).items():
                if matches(event.payload, match):
                    yield waits


def _by_name(waits: Iterable[StepRow]) -> Mapping[str | None, _Hopes]:
    named: dict[str | None, list[StepRow]] = defaultdict(list)
    for wait in waits:
        if wait.pending and wait.kind is StepKind.EVENT:
            named[wait.detail].append(wait)
    return {name: _Hopes(mine) for name, mine in named.items()}


def matched_events(
    tables: Tables, row: ExecutionRow, steps: Sequence[StepRow]
) -> dict[str, EventRow]:
    """What the waits of an execution take, by their keys.

    Each takes the first event since the invocation that matches and that no other has taken. That
    is the same as to give each event, in their order, to the first wait that it matches.

    Args:
        tables: Where the events are.
        row: The execution.
        steps: All of its steps, in the order in which they began.
    """
    hopes = _by_name(steps)
    if not hopes:
        return {}
    taken = {one.event_id for one in steps}
    rank = {step.key: number for number, step in enumerate(steps)}
    since = [
        one
        for one in tables.events.values()
        if one.name in hopes and one.emitted > row.invoked and one.id not in taken
    ]
    found: dict[str, EventRow] = {}
    served: dict[int, int] = defaultdict(int)
    for event in sorted(since, key=lambda one: one.emitted):
        lines = hopes[event.name].for_event(event)
        left = [line for line in lines if served[id(line)] < len(line)]
        if left:
            best = min(left, key=lambda line: rank[line[served[id(line)]].key])
            found[best[served[id(best)]].key] = event
            served[id(best)] += 1
    return found


def hopeful(tables: Tables, pending: Iterable[StepRow], events: Iterable[EventRow]) -> set[UUID]:
    """Executions that may take one of these events.

    Args:
        tables: Where the executions are.
        pending: Waits, of whatever execution.
        events: The events.
    """
    hopes = _by_name(pending)
    return {
        wait.execution_id
        for event in events
        if event.name in hopes
        for line in hopes[event.name].for_event(event)
        for wait in line
        if event.emitted > tables.executions[wait.execution_id].invoked
    }
