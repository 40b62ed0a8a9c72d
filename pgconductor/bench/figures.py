"""Figures and what is made of them: medians, spreads, ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

__all__ = ["Costs", "Figures", "Sample", "Summary", "median", "percentile", "ratio"]


@dataclass(frozen=True, slots=True)
class Costs:
    """What one execution (or step) has cost; None is not known.

    Attributes:
        wal_bytes: Bytes that the server wrote to its log.
        commits: Transactions, those that only read included.
        round_trips: How often a client waited for the server.
        server_us: Processor time of the server, in microseconds.
        client_us: Processor time of the contestant's processes, in microseconds.
    """

    wal_bytes: float | None = None
    commits: float | None = None
    round_trips: float | None = None
    server_us: float | None = None
    client_us: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        value: A rate in units a second, or a median delay in milliseconds.
        costs: What a unit has cost.
        p95: The 95th percentile, for delays.
    """

    value: float
    costs: Costs = Costs()
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """Several samples of one contestant.

    Attributes:
        median: The median of the values.
        low: The least.
        high: The greatest.
        ratio: Our value divided by this one; the median of the rounds.
        p95: The median of the 95th percentiles.
        costs: The medians of the costs.
    """

    median: float
    low: float
    high: float
    ratio: float | None
    p95: float | None
    costs: Costs


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of all do not exceed.

    Args:
        values: At least one.
        percent: 1 to 100.
    """
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """Ours divided by theirs: the median over the rounds in which both are known.

    Each quotient is of one round, so that what slows the machine for a while slows both.

    Args:
        ours: Our values, by round.
        theirs: Another's, by round.
    """
    pairs = zip(ours, theirs, strict=False)
    return median(a / b if a is not None and b else None for a, b in pairs)


@dataclass(slots=True)
class Figures:
    """Everything that was measured, by measure and contestant.

    Attributes:
        samples: By round; None where a round gave nothing.
        reasons: Why there is nothing.
    """

    samples: dict[tuple[str, str], list[Sample | None]] = field(
        default_factory=dict[tuple[str, str], "list[Sample | None]"]
    )
    reasons: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    counted: dict[tuple[str, str], Costs] = field(default_factory=dict[tuple[str, str], Costs])

    def values(self, measure: str, contestant: str) -> list[float | None]:
        """The values of each round."""
        samples = self.samples.get((measure, contestant), [])
        return [None if sample is None else sample.value for sample in samples]

    def summary(self, measure: str, contestant: str, ours: str) -> Summary | None:
        """A contestant's figures in a measure; None if there are none.

        Args:
            measure: The measure's key.
            contestant: Its name.
            ours: The name of the one that all are compared with.
        """
        samples = [one for one in self.samples.get((measure, contestant), []) if one is not None]
        if not samples:
            return None
        values = [one.value for one in samples]
        each = {
            f.name: median(getattr(one.costs, f.name) for one in samples) for f in fields(Costs)
        }
        counted = self.counted.get((measure, contestant), Costs())
        each |= {"commits": counted.commits, "round_trips": counted.round_trips}
        return Summary(
            statistics.median(values),
            min(values),
            max(values),
            ratio(self.values(measure, ours), self.values(measure, contestant)),
            median(one.p95 for one in samples),
            Costs(**each),
        )
