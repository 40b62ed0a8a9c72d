"""What a supervisor of worker processes decides; no process is touched here."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pgconductor.cli.exit_codes import ExitCode

__all__ = ["Restarts", "Verdict", "judge", "meaning", "said", "worst"]

# Another start would end in the same way, and so would those of the other processes.
_HOPELESS: Final = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.SCHEMA_TOO_NEW,
        ExitCode.SCHEMA_BEHIND,
        ExitCode.PRIVILEGE,
        ExitCode.POOLED,
        ExitCode.REVISION_FAILED,
        ExitCode.HISTORY,
        ExitCode.SHUTDOWN,
    }
)
# From the best to the worst, as far as waiting scripts are concerned; what is not here is worse.
_RANKS: Final = (ExitCode.OK, ExitCode.EVICTED, ExitCode.FORCED, ExitCode.UNREACHABLE)


class Verdict(Enum):
    """What follows from the end of a process.

    Attributes:
        DONE: Nothing: it has ended as it should.
        RESTART: Start it again, after a pause.
        GIVE_UP: Stop the others as well, and end with its exit code.
    """

    DONE = "done"
    RESTART = "restart"
    GIVE_UP = "give up"


def meaning(code: int) -> ExitCode:
    """What an exit code says: a signal, or a code that is not ours, is an unexpected error.

    Args:
        code: As ``subprocess`` has it, negative for a signal.
    """
    try:
        return ExitCode(code)
    except ValueError:
        return ExitCode.ERROR


def said(code: int) -> str:
    """How a process has ended, for the log.

    Args:
        code: As ``subprocess`` has it, negative for a signal.
    """
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    known = {one.value: one.name for one in ExitCode}
    name = f" ({known[code]})" if code in known else ""
    return f"ended with exit code {code}{name}"


def judge(code: int, *, stopping: bool, draining: bool, proven: bool) -> Verdict:
    """What follows from the end of a process.

    Args:
        code: Its exit code, negative for a signal.
        stopping: All processes have been asked to stop.
        draining: Each ends when nothing is left that is due.
        proven: Some process has started to work before, so that its failure is no mistake in the
            command line or the application.
    """
    found = meaning(code)
    if stopping or (draining and found is ExitCode.OK):
        return Verdict.DONE
    if found in _HOPELESS or not (proven or found is ExitCode.OK):
        return Verdict.GIVE_UP
    return Verdict.RESTART


def worst(codes: Iterable[int]) -> ExitCode:
    """The exit code that stands for several.

    Args:
        codes: Of the processes; none at all is as good as a clean end.
    """

    def rank(code: ExitCode) -> int:
        return _RANKS.index(code) if code in _RANKS else len(_RANKS)

    return max(map(meaning, codes), key=rank, default=ExitCode.OK)


@dataclass(slots=True)
class Restarts:
    """The pauses before a process is started again: they grow while it does not last.

    Half of each pause is left to chance, so that processes which die of one cause do not come back
    at one instant.

    Attributes:
        first: The first pause is at most this many seconds, and at least half of it.
        longest: No pause is longer.
        lasting: A process that lived for so many seconds begins with the first pause again.
        chance: A number from 0 to 1.
    """

    first: float = 0.5
    longest: float = 30.0
    lasting: float = 60.0
    chance: Callable[[], float] = field(default=random.random)
    _ends: int = 0

    def pause(self, lived: float) -> float:
        """The pause before the next start, in seconds.

        Args:
            lived: How many seconds the process lived that has just ended.
        """
        self._ends = 1 if lived >= self.lasting else self._ends + 1
        ceiling = min(self.first * 2.0 ** min(self._ends - 1, 32), self.longest)
        return ceiling * (1.0 + self.chance()) / 2.0
