"""What can be seen in the script of a revision: how it is wrapped, and what is outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from types import ModuleType
from typing import Final

from alembic import op
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from pgconductor.schema.applying import applying, reverting
from pgconductor.schema.linting.rules import Finding
from pgconductor.schema.metadata import Revision

__all__ = ["look_at_scripts"]

_CHANGE: Final = "SELECT 'the change';"
_BEGIN: Final = "BEGIN;"
_COMMIT: Final = "COMMIT;"
# What the helpers of concurrently.py write, by the beginnings of the statements.
_BUILD: Final[tuple[str | tuple[str, ...], ...]] = (
    "SET lock_timeout = ",
    "DROP INDEX CONCURRENTLY IF EXISTS ",
    ("CREATE INDEX CONCURRENTLY ", "CREATE UNIQUE INDEX CONCURRENTLY "),
    "DO $whole$",
    "RESET lock_timeout",
)
_DROP: Final = (*_BUILD[:2], _BUILD[-1])


def look_at_scripts(revision: Revision, module: ModuleType) -> Iterator[Finding]:
    """Render a revision as ``--sql`` does, both ways.

    Args:
        revision: What it declares.
        module: Its file.
    """
    yield from _look_at(revision, module, "upgrade", _applied)
    if not revision.irreversible:
        yield from _look_at(revision, module, "downgrade", _reverted)


def _applied(revision: Revision) -> None:
    number = f"{revision.version:04d}"
    with applying(op, number, name=revision.name, breaking=revision.breaking):
        op.execute("SELECT 'the change'")


def _reverted(revision: Revision) -> None:
    number = f"{revision.version:04d}"
    with reverting(op, number, name=revision.name, breaking=revision.breaking):
        op.execute("SELECT 'the change'")


def _look_at(
    revision: Revision, module: ModuleType, way: str, wrapped: Callable[[Revision], None]
) -> Iterator[Finding]:
    expected = _rendered(lambda: wrapped(revision))
    place = expected.index(_CHANGE)
    before, after = expected[:place], expected[place + 1 :]
    try:
        script = _rendered(getattr(module, way))
    # Whatever goes wrong here goes wrong for the DBA too.
    except Exception as error:  # noqa: BLE001 - anything may come out of a revision
        yield Finding(revision.version, "script", f"{way}() raises {error!r}")
        return
    inner = script[len(before) : len(script) - len(after)]
    if script != [*before, *inner, *after]:
        yield Finding(revision.version, "wrapped", f"{way}() does something outside, or all")
    elif _COMMIT in inner:
        yield from _look_outside(revision, way, inner)


def _look_outside(revision: Revision, way: str, inner: list[str]) -> Iterator[Finding]:
    outside = inner[1:-1]
    groups = (_BUILD, _DROP)
    if [*inner[:1], *inner[-1:]] != [_COMMIT, _BEGIN] or not any(
        len(group) == len(outside)
        and all(text.startswith(start) for text, start in zip(outside, group, strict=True))
        for group in groups
    ):
        yield Finding(revision.version, "alone", f"{way}() does something else beside, or else")
    if revision.breaking:
        # Whoever registers while the index is built was not there when the guard counted.
        yield Finding(revision.version, "alone", f"{way}() is that of a breaking revision")


class _Statements(StringIO):
    """Keeps what Alembic writes apart: a statement each."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text.strip())
        return len(text)


def _rendered(function: Callable[[], None]) -> list[str]:
    buffer = _Statements()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        opts={"as_sql": True, "literal_binds": True, "output_buffer": buffer},
    )
    with Operations.context(context):
        function()
    return buffer.texts
