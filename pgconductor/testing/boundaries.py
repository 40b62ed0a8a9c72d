"""Where the process of an attempt may die, and where it is to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Boundary", "Crashes", "Plan", "Point", "When"]

When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place at which something of an execution becomes durable.

    Attributes:
        task: The task's name.
        step: The key of the step, wait, child or event; None for how the attempt itself ends.
        when: ``"before"`` it was written, or ``"after"`` it was committed and before the handler
            was told.
    """

    task: str
    step: str | None
    when: When

    def __str__(self) -> str:
        what = "the end of its attempt" if self.step is None else repr(self.step)
        written = "before {} was on record" if self.when == "before" else "after {} was on record"
        return f"{self.task}: {written.format(what)}"


@dataclass(frozen=True, slots=True)
class Point:
    """A boundary as it is met for a certain time.

    Attributes:
        boundary: The boundary.
        occurrence: 1 for the first time.
    """

    boundary: Boundary
    occurrence: int = 1

    def __str__(self) -> str:
        again = f" (time {self.occurrence})" if self.occurrence > 1 else ""
        return f"{self.boundary}{again}"


@dataclass(slots=True, eq=False)
class Plan:
    """A crash that is to happen.

    Attributes:
        step: At which key; None for the end of an attempt.
        when: Before or after it is on record.
        task: In which task; None for any.
        first: From which time on that the boundary is met.
        times: How often.
        struck: How often it has happened.
    """

    step: str | None
    when: When
    task: str | None = None
    first: int = 1
    times: int = 1
    struck: int = 0
    _met: int = 0

    def strikes(self, boundary: Boundary) -> bool:
        """Whether it happens here; counts the meeting."""
        if (boundary.step, boundary.when) != (self.step, self.when) or (
            self.task not in (None, boundary.task)
        ):
            return False
        self._met += 1
        if self._met < self.first or self.struck >= self.times:
            return False
        self.struck += 1
        return True

    def __str__(self) -> str:
        return str(Point(Boundary(self.task or "any task", self.step, self.when), self.first))


@dataclass(slots=True)
class Crashes:
    """What was planned, and what was met.

    Attributes:
        plans: The crashes that are to happen.
        met: The boundaries that were met, in order.
    """

    plans: list[Plan] = field(default_factory=list[Plan])
    met: list[Point] = field(default_factory=list[Point])
    _counts: Counter[Boundary] = field(default_factory=Counter[Boundary])

    def strikes(self, boundary: Boundary) -> bool:
        """Whether the process dies at a boundary that is met just now."""
        self._counts[boundary] += 1
        self.met.append(Point(boundary, self._counts[boundary]))
        struck = [plan.strikes(boundary) for plan in self.plans]  # Each of them counts.
        return any(struck)

    def check(self) -> None:
        """See that everything has happened that was planned.

        Raises:
            AssertionError: It has not.
        """
        missed = [plan for plan in self.plans if plan.struck < plan.times]
        if missed:
            places = "\n".join(f"  {one}" for one in self.met)
            raise AssertionError(
                f"no crash happened at: {', '.join(map(str, missed))}; what was met:\n{places}"
            )
