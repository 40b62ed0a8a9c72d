"""One attempt of a rehearsal, which ends or stays in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from pgconductor.domain.claims import Fetched
from pgconductor.domain.outcomes import Outcome
from pgconductor.runtime.attempt import Attempt
from pgconductor.runtime.waits import Waits
from pgconductor.services.steps import StepService
from pgconductor.testing.memory import RehearsedMemory
from pgconductor.testing.stages import Stage

__all__ = ["Played", "RehearsedSentry"]

#: Seconds between two looks at a handler that has not ended.
_LOOK: Final = 0.01
#: How many looks in a row must find that it goes on only if something comes.
_LOOKS: Final = 5


class RehearsedSentry:
    """Looks once when it is asked: a handler that waits is suspended soon after.

    Args:
        steps: Where waits are settled.
    """

    def __init__(self, steps: StepService) -> None:
        #: The attempt's, once it has waited for anything.
        self.waits: Waits | None = None
        #: Whether looks are for the player to take: the test may be amid a statement.
        self.resting = False
        #: Set while it stays in memory for what else may come, and for how long.
        self.lingering = asyncio.Event()
        self.linger = timedelta(0)
        self._steps = steps
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way."""
        return self._looking is not None and not self._looking.done()

    def watch(self, waits: Waits, child_id: UUID | None) -> None:  # noqa: ARG002 - the protocol's
        """See the protocol."""
        self.waits = waits

    def forget(self, waits: Waits) -> None:
        """See the protocol."""

    def look(self, execution_id: UUID) -> None:  # noqa: ARG002 - the protocol's
        """See the protocol."""
        if self.waits is not None and not self.is_looking and not self.resting:
            self._looking = asyncio.create_task(self._look(self.waits))

    def keeps(self, waits: Waits, seconds: float) -> bool:  # noqa: ARG002 - the protocol's
        """See the protocol: it goes by the clock of the rehearsal."""
        self.linger = timedelta(seconds=seconds)
        self.lingering.set()
        return True

    async def look_now(self) -> None:
        """Tell the attempt of what has come."""
        if self.waits is not None:
            await self._look(self.waits)

    async def _look(self, waits: Waits) -> None:
        for settled in await self._steps.settle({waits.execution_id: waits.seen()}):
            waits.settled(settled)

    async def aclose(self) -> None:
        """Wait for a look that is under way: the handler may have ended before it has."""
        if self._looking is not None:
            await self._looking


@dataclass(slots=True, eq=False)
class Played:
    """An attempt that was begun.

    Attributes:
        fetched: The execution.
        attempt: The attempt.
        memory: What it records.
        sentry: Who looks for what it waits for.
        outcomes: How it has ended, once it has.
        task: In which it is executed.
    """

    fetched: Fetched
    attempt: Attempt
    memory: RehearsedMemory
    sentry: RehearsedSentry
    outcomes: list[Outcome]
    task: asyncio.Task[None] = field(init=False)

    @property
    def waits_for(self) -> list[str]:
        """The keys of what it waits for."""
        return [] if self.sentry.waits is None else self.sentry.waits.keys

    @property
    def ended(self) -> bool:
        """Whether the handler has ended, or its process."""
        return self.task.done() or self.memory.crashed.is_set()

    @property
    def stalled(self) -> bool:
        """Whether it has not ended, and goes on only if something comes."""
        waits = self.sentry.waits
        if self.ended or self.sentry.is_looking or waits is None:
            return False
        return waits.stalled

    @property
    def lingers(self) -> bool:
        """Whether it stays in memory only for what else may come soon."""
        waits = self.sentry.waits
        return not self.ended and waits is not None and waits.lingers

    def leave(self) -> None:
        """Have it stay no longer."""
        self.rest(resting=False)
        if self.sentry.waits is not None:
            self.sentry.waits.leave()

    async def until_calm(self, stage: Stage, patience: timedelta) -> None:
        """Wait until it has ended, or has stalled for some moments.

        A moment of the loop's, not of the clock: in a slow one, everybody has had as many turns.

        Raises:
            TimeoutError: It does neither.
        """
        self.sentry.lingering.clear()
        crashed = asyncio.create_task(self.memory.crashed.wait())
        lingering = asyncio.create_task(self.sentry.lingering.wait())
        calm = 0
        try:
            async with asyncio.timeout(patience.total_seconds()):
                while not self.ended:
                    awaited: set[asyncio.Task[Any]] = {self.task, crashed}
                    if not lingering.done():
                        awaited.add(lingering)
                    await asyncio.wait(awaited, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                    calm = calm + 1 if self.stalled else 0
                    if calm >= _LOOKS or self.lingers:
                        # Whoever has a turn keeps the others from going on.
                        await stage.quiet(())
                        if self.stalled:
                            return
        finally:
            crashed.cancel()
            lingering.cancel()

    def rest(self, *, resting: bool) -> None:
        """Have it stay where it is while others are executed, or go on."""
        self.sentry.resting = resting
        self.memory.rest(resting=resting)

    async def may_go_on(self) -> bool:
        """Whether something has come for it, or it goes on by itself."""
        if self.stalled:
            await self.sentry.look_now()
        return not self.stalled
