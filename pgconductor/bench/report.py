"""The figures as a table and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pgconductor.bench.contestants import OURS
from pgconductor.bench.figures import Summary, ratio
from pgconductor.bench.harness import Outcome
from pgconductor.bench.measures import Measure

__all__ = ["HEADS", "as_json", "introductions", "tables"]

HEADS = (
    "",
    "median",
    "least",
    "greatest",
    "us ÷ it",
    "p95",
    "÷ without",
    "WAL bytes",
    "commits",
    "round trips",
    "server µs",
    "client µs",
)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, for a file.

    Args:
        outcome: What came of a benchmark.
    """
    plan = outcome.plan
    return {
        "machine": outcome.machine,
        "rounds": plan.rounds,
        "scale": plan.scale,
        "seeded_rows": plan.seeded_rows,
        "contestants": outcome.about,
        "measures": {
            measure.key: {
                "title": measure.title,
                "unit": measure.unit,
                "contestants": dict(_entries(outcome, measure)),
            }
            for measure in plan.measures
        },
    }


def introductions(outcome: Outcome) -> Iterator[str]:
    """A line about each engine: its version, and how it is set.

    Args:
        outcome: What came of a benchmark.
    """
    told: set[tuple[str, ...]] = set()
    for name, about in outcome.about.items():
        facts = tuple(about.values())
        if facts not in told:
            told.add(facts)
            yield f"{name} {about['version']}: {about['settings']}"


def _entries(outcome: Outcome, measure: Measure) -> Iterator[tuple[str, dict[str, Any]]]:
    for contestant in outcome.plan.contestants:
        if measure.key not in contestant.measures:
            continue
        where = (measure.key, contestant.name)
        summary = outcome.figures.summary(*where, OURS)
        reason = outcome.figures.reasons.get(where)
        entry: dict[str, Any] = {"values": outcome.figures.values(*where)}
        if summary is not None:
            entry |= asdict(summary)
            entry["without"] = _without(outcome, measure, contestant.name)
        if reason is not None:
            entry["not_measured"] = reason
        yield contestant.name, entry


def _without(outcome: Outcome, measure: Measure, contestant: str) -> float | None:
    """The value under a condition divided by the one without it."""
    if not measure.against:
        return None
    figures = outcome.figures
    return ratio(
        figures.values(measure.key, contestant), figures.values(measure.against, contestant)
    )


def tables(outcome: Outcome) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A title and rows for each measure, best first; the cells are those of ``HEADS``.

    Args:
        outcome: What came of a benchmark.
    """
    for measure in outcome.plan.measures:
        entered = [one.name for one in outcome.plan.contestants if measure.key in one.measures]
        found = {name: outcome.figures.summary(measure.key, name, OURS) for name in entered}
        measured = [(name, one) for name, one in found.items() if one is not None]
        measured.sort(key=lambda pair: pair[1].median, reverse=measure.unit != "ms")
        rows = [_row(name, summary, _without(outcome, measure, name)) for name, summary in measured]
        for name in entered:
            reason = outcome.figures.reasons.get((measure.key, name))
            if reason is not None:
                rows.append((name, f"not measured: {reason}"))
        better = ", less is better" if measure.unit == "ms" else ""
        yield f"{measure.title}, {measure.unit}{better}", rows


def _row(name: str, summary: Summary, without: float | None) -> tuple[str, ...]:
    costs = summary.costs
    return (
        name,
        _number(summary.median),
        _number(summary.low),
        _number(summary.high),
        _number(summary.ratio),
        _number(summary.p95),
        _number(without),
        _number(costs.wal_bytes),
        _number(costs.commits),
        _number(costs.round_trips),
        _number(costs.server_us),
        _number(costs.client_us),
    )


def _number(value: float | None) -> str:
    """Three figures or all digits before the point; nothing for what is not known."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"
