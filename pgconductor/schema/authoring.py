"""What ``alembic revision`` is told: which number is next, and that it belongs into a checkout.

Our ids are numbers, and Alembic's own are random.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pgconductor.exceptions import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.operations import MigrationScript
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

__all__ = ["check_checkout", "needs_no_database", "number_revision", "only_in_a_checkout"]


class Environment(Protocol):
    """``alembic.context``, as an environment sees it."""

    config: Config
    script: ScriptDirectory

    def configure(self, **options: Any) -> None:
        """Make a migration context."""
        ...

    def get_context(self) -> MigrationContext:
        """The one that was made last."""
        ...

    def run_migrations(self, **arguments: Any) -> None:
        """Do what Alembic's command wants done."""
        ...


def check_checkout(location: Path) -> None:
    """Refuse to write a revision into an installed package, where it would stop the installation.

    Args:
        location: The folder of the environment.

    Raises:
        ConfigurationError: It is a part of a package.
    """
    if (location.parent / "__init__.py").exists():
        raise ConfigurationError(
            f"no new revision was written: {location} is part of the installed package. Revisions "
            "of your own belong to your own history: `alembic revision` without -n pgconductor. "
            "Those of pgconductor are written in a checkout"
        )


def only_in_a_checkout(template: str) -> str:
    """The same, for the template of a revision: Alembic calls no environment for most of them.

    Alembic shows nothing of what a template raises, so the reason is printed.

    Args:
        template: The path of the template.

    Raises:
        ConfigurationError: It is in an installed package.
    """
    try:
        check_checkout(Path(template).resolve().parent)
    except ConfigurationError as error:
        print(f"pgconductor: {error}", file=sys.stderr, flush=True)  # noqa: T201 - Alembic tells nothing
        raise
    return ""


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

    Raises:
        ConfigurationError: A new revision is asked for outside of a checkout.
    """
    context.configure(dialect_name="postgresql")
    # Of `check` it is the same as of `revision --autogenerate`.
    writes = _asked(context.get_context()).get("autogenerate") is False
    if writes or _command(context.config) == "revision":
        check_checkout(Path(context.script.dir).resolve())
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
    asks = given.get("indicate_current") or "current" in (given.get("rev_range") or "")
    return _command(config) == "history" and not asks


def _command(config: Config) -> str:
    """The name of the command, if it was called by the command line."""
    given = vars(config.cmd_opts) if config.cmd_opts else {}
    return getattr(given.get("cmd", (None,))[0], "__name__", "")


def _asked(context: MigrationContext) -> dict[str, Any]:
    """The options of ``alembic revision``; of another command, none."""
    command = context.opts.get("revision_context")
    return {} if command is None else dict(command.command_args)
