"""What ``alembic revision`` in a checkout is told: which number is next.

Our ids are numbers, and Alembic's own are random.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.operations import MigrationScript
    from alembic.runtime.migration import MigrationContext

__all__ = ["needs_no_database", "number_revision"]


class Environment(Protocol):
    """``alembic.context``, as an environment sees it."""

    config: Config

    def configure(self, **options: Any) -> None:
        """Make a migration context."""
        ...

    def get_context(self) -> MigrationContext:
        """The one that was made last."""
        ...

    def run_migrations(self, **arguments: Any) -> None:
        """Do what Alembic's command wants done."""
        ...


def number_revision(
    context: MigrationContext, _: Any, directives: Iterable[MigrationScript]
) -> None:
    """Give a new revision the next number; a ``process_revision_directives`` of Alembic.

    Args:
        context: Alembic's migration context.
        directives: The new revisions; what ``--rev-id`` gives stays.
    """
    if context.script is None or _asked(context).get("rev_id") is not None:
        return
    ids = [one.revision for one in context.script.walk_revisions()]
    taken = max((int(one) for one in ids if one.isdecimal()), default=0)
    for number, directive in enumerate(directives, taken + 1):
        directive.rev_id = f"{number:04d}"


def needs_no_database(context: Environment) -> bool:
    """Do what Alembic wants of its environment, if that is possible without a database.

    That is so for a new revision without ``--autogenerate``. Because ``revision_environment`` has
    the environment called for it, it is also called for the history.

    Args:
        context: ``alembic.context``.

    Returns:
        Whether it was so; then there is nothing else to do.
    """
    context.configure(dialect_name="postgresql")
    writes = _asked(context.get_context()).get("autogenerate") is False
    if not writes and not _lists_only(context.config):
        return False
    # As for a script: that needs no connection, and nothing is written into this one.
    context.configure(
        dialect_name="postgresql", as_sql=True, process_revision_directives=number_revision
    )
    context.run_migrations()
    return True


def _lists_only(config: Config) -> bool:
    """Whether it is ``alembic history`` and need not know where the database is."""
    given = vars(config.cmd_opts) if config.cmd_opts else {}
    command = given.get("cmd", (None,))[0]
    asks = given.get("indicate_current") or "current" in (given.get("rev_range") or "")
    return getattr(command, "__name__", "") == "history" and not asks


def _asked(context: MigrationContext) -> dict[str, Any]:
    """The options of ``alembic revision``; of another command, none."""
    command = context.opts.get("revision_context")
    return {} if command is None else dict(command.command_args)
