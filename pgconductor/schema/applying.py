"""What the ``upgrade()`` and ``downgrade()`` of every revision of ours are wrapped in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from pgconductor.schema.guard import guard_downgrade, guard_upgrade, refusals
from pgconductor.schema.history import check_context
from pgconductor.schema.ledger import recorded, stamped, struck_out
from pgconductor.schema.metadata import Revision, revisions

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationInfo

__all__ = ["Operations", "applying", "record_stamp", "reverting"]


class Operations(Protocol):
    """What ``alembic.op``, or an ``Operations`` object, does for a revision of ours."""

    def execute(self, sqltext: sa.Executable | str, /) -> None:
        """Execute a statement, or write it into the script."""
        ...

    def get_context(self) -> MigrationContext:
        """Alembic's migration context."""
        ...


@contextmanager
def applying(op: Operations, revision: str, *, name: str, breaking: bool | None) -> Generator[None]:
    """Guard a revision before it is applied, and record it afterwards, in its own transaction.

    So both hold however the revision is applied: by our environment, by an application's own, or
    as a script made with ``--sql``.

    Args:
        op: Alembic's operations.
        revision: The revision's id.
        name: What it does.
        breaking: As :class:`Revision` says; None is refused.

    Raises:
        ConfigurationError: It is applied as part of somebody else's history.
        RevisionMetadataError: The revision does not declare what it must.
        NotDrained: It is breaking, and orchestrators that do not know it are registered.
        LeaseLost: Another migration is at work.
        HistoryMismatch: The revision before it is not what the database holds.
    """
    check_context(op.get_context())
    declared = Revision.read(revision, name, breaking)
    with refusals():
        op.execute(guard_upgrade(declared))
    yield
    with refusals():
        for statement in recorded(declared):
            op.execute(statement)


@contextmanager
def reverting(
    op: Operations, revision: str, *, name: str, breaking: bool | None
) -> Generator[None]:
    """Guard a revision before it is taken back, and strike it out of the ledger afterwards.

    Args:
        op: Alembic's operations.
        revision: The revision's id.
        name: What it does.
        breaking: As :class:`Revision` says; None is refused.

    Raises:
        ConfigurationError: It is taken back as part of somebody else's history.
        RevisionMetadataError: The revision does not declare what it must.
        NotDrained: Orchestrators are registered that cannot work without it.
        LeaseLost: Another migration is at work.
        HistoryMismatch: The revision is not the last one that the database holds.
    """
    check_context(op.get_context())
    declared = Revision.read(revision, name, breaking)
    with refusals():
        op.execute(guard_downgrade(declared))
    yield
    for statement in struck_out(declared):
        op.execute(statement)


def record_stamp(ctx: MigrationContext, step: MigrationInfo, **_: Any) -> None:
    """Keep ledger and gate in step with ``stamp``; an ``on_version_apply`` of Alembic.

    ``upgrade`` and ``downgrade`` write their own, see :func:`applying` and :func:`reverting`.

    Args:
        ctx: Alembic's migration context.
        step: What was just applied.

    Raises:
        LeaseLost: A migration is at work.
    """
    if not step.is_stamp:
        return
    location = Path(ctx.script.dir) if ctx.script else None
    known = revisions(location)
    names = {f"{one.version:04d}": one.version for one in known}
    top = max((names[rev] for rev in step.destination_revision_ids if rev in names), default=0)
    with refusals():
        ctx.execute(stamped(known, top))
