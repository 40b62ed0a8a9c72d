"""Reads everything: what tests look at is small."""

from __future__ import annotations

from collections.abc import Iterable

from pgconductor.domain.snapshots import ExecutionFilter, ExecutionSnapshot
from pgconductor.services.executions import ExecutionService
from pgconductor.services.steps import StepService
from pgconductor.testing.reports import Waiting

__all__ = ["all_executions", "all_waiting"]


async def all_executions(
    service: ExecutionService, where: ExecutionFilter
) -> list[ExecutionSnapshot]:
    """All executions that a filter lets through, the oldest first."""
    found: list[ExecutionSnapshot] = []
    page = await service.list(where, limit=1_000)
    found.extend(page.items)
    while page.next is not None:
        page = await service.list(where, limit=1_000, after=page.next)
        found.extend(page.items)
    return found[::-1]


async def all_waiting(service: StepService, found: Iterable[ExecutionSnapshot]) -> list[Waiting]:
    """What executions wait for."""
    executions = list(found)
    histories = await service.histories([one.id for one in executions])
    return [
        Waiting(one.id, one.task_key, step.key, step.kind, step.detail, step.remaining)
        for one in executions
        if one.id in histories
        for step in histories[one.id].records.values()
        if step.pending
    ]
