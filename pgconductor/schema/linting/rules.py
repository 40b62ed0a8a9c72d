"""The rules by name, and what a revision does about one that it breaks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, cast

__all__ = ["ANSWERABLE", "FIRM", "Finding", "answered"]

#: What may be right all the same: a revision that is breaking, or that says why it is safe, may.
ANSWERABLE: Final = {
    "gone": "older releases may name it: take it away in a breaking revision, later",
    "changed": "older releases may rely on it: add something new beside it",
    "required": "older releases do not fill it: give it a constant default, or let it be null",
    "overloaded": "calls by older releases may become ambiguous: give the function a new name",
    "rewritten": "nobody can read the table meanwhile: add a column, fill it in batches",
    "scanned": "the table is locked while its rows are read: add the constraint NOT VALID, and"
    " validate it in the next revision",
    "built": "the table is locked while the index is built: create_index_concurrently",
    "rows": "rows of a large table are changed in one transaction: fill in batches",
    "together": "others hold one table and wait for another, and would be ended by the server:"
    " lock_tables(op, ...) before anything else",
    "locked": "it blocks readers or writers: leave the locks to the statements that need them",
}
#: What no revision may do.
FIRM: Final = {
    "wrapped": "upgrade() and downgrade() do everything inside applying() and reverting(), which"
    " get the constants of the revision",
    "script": "a DBA must be able to have it as a script: it may not ask the database",
    "alone": "outside a transaction a revision builds or drops one index, by the helper, and is"
    " not breaking",
    "way back": "downgrade() must lead to the schema before, or the revision be irreversible",
    "answer": "safe_because is a dict from rules that the revision breaks to reasons",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a revision does that it should not, or not without saying why.

    Attributes:
        version: The revision.
        rule: The rule.
        what: What it does.
        because: Why that is safe, as the revision says.
    """

    version: int
    rule: str
    what: str
    because: str | None = None

    def __str__(self) -> str:
        """What an author reads."""
        said = self.because or (ANSWERABLE | FIRM)[self.rule]
        return f"{self.version:04d}: {self.rule}: {self.what} ({said})"


def answered(
    found: Iterable[Finding], version: int, *, breaking: bool, answers: object
) -> list[Finding]:
    """Findings with the revision's answers to them.

    Args:
        found: What was found.
        version: The revision.
        breaking: Whether it is; then orchestrators are not in the way.
        answers: Its ``safe_because``, None if it has none.

    Returns:
        The findings that stand, those that are answered, and one for each bad answer.
    """
    kept = [one for one in found if one.rule in FIRM or not breaking]
    rules = {one.rule for one in kept if one.rule in ANSWERABLE}
    reasons: dict[str, str] = {}
    for rule, reason in _items(answers):
        if rule not in rules:
            kept.append(Finding(version, "answer", f"{rule!r} answers nothing"))
        elif not isinstance(reason, str) or not reason.strip():
            kept.append(Finding(version, "answer", f"{rule!r} has no reason"))
        else:
            reasons[str(rule)] = reason
    return [replace(one, because=reasons.get(one.rule)) for one in kept]


def _items(answers: object) -> Iterable[tuple[object, object]]:
    if answers is None:
        return ()
    if not isinstance(answers, dict):
        return [(answers, None)]
    return cast("dict[object, object]", answers).items()
