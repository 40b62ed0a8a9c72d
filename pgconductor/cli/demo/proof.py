"""What the demo claims at its end, and whether it is true. Pure: rows and counts go in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from pgconductor.cli.demo.counting import Counts

__all__ = ["Check", "FileRow", "Proof", "prove"]


@dataclass(frozen=True, slots=True)
class FileRow:
    """An execution of ``count_file`` as the database has it."""

    path: str
    state: str
    attempts: int
    crashes: int
    result: Counts | None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the proof.

    Attributes:
        name: What is compared.
        measured: What the executions left in the database.
        expected: What it has to be.
    """

    name: str
    measured: int
    expected: int

    @property
    def ok(self) -> bool:
        """Whether the two are equal."""
        return self.measured == self.expected


@dataclass(frozen=True, slots=True)
class Proof:
    """All checks, and the files that spoil one.

    Attributes:
        checks: The comparisons.
        suspects: Some files that were lost, doubled or counted wrongly.
    """

    checks: tuple[Check, ...]
    suspects: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, doubled or counted wrongly."""
        return all(check.ok for check in self.checks) and not self.suspects


def prove(
    rows: Iterable[FileRow],
    summary: Counts | None,
    plain: Mapping[str, Counts],
    *,
    failed_once: Set[str],
    recovered: int | None,
) -> Proof:
    """Compare what the executions did with a plain count of the same files.

    Args:
        rows: Every execution of the demo.
        summary: The result of the summary execution.
        plain: The counts of a single process, by file.
        failed_once: The files whose first attempt was made to fail.
        recovered: How many executions the killed worker held; None if other workers ended
            unforeseen, so that nobody can tell.
    """
    rows = list(rows)
    completed = Counter(row.path for row in rows if row.state == "completed")
    wrong = {row.path for row in rows if row.result != plain.get(row.path)}
    retried = {row.path for row in rows if row.attempts == 2}
    lost_or_doubled = {path for path in plain.keys() | completed if completed[path] != 1}
    total = sum(plain.values(), Counts())
    summed = summary or Counts()
    crashes = sum(row.crashes for row in rows)
    checks = (
        Check("executions invoked", len(rows), len(plain)),
        Check("files completed exactly once", _exactly_once(completed, plain), len(plain)),
        Check("files with equal counts", len(plain.keys() - wrong), len(plain)),
        *(
            Check(f"{name} in the summary", getattr(summed, name), getattr(total, name))
            for name in Counts.model_fields
        ),
        Check("attempts", sum(row.attempts for row in rows), len(plain) + len(failed_once)),
        Check("retried after an error", len(retried), len(failed_once)),
        Check("recovered after the crash", crashes, crashes if recovered is None else recovered),
    )
    odd = retried ^ set(failed_once)
    return Proof(checks, tuple(sorted(lost_or_doubled | wrong | odd)))


def _exactly_once(completed: Counter[str], plain: Mapping[str, Counts]) -> int:
    return sum(1 for path in plain if completed[path] == 1)
