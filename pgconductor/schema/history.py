"""Our revisions are a history of their own: nobody else's are among them, and one table tells them.

Alembic takes each option that a section leaves out from ``pyproject.toml``, where an application
says where its own revisions are. And an application's environment may list our folder beside its
own. Both would have two histories in one version table, whose ids then mean nothing to either.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgconductor.exceptions import ConfigurationError
from pgconductor.models import SCHEMA, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

__all__ = ["check_context", "check_script", "check_section"]

_SECTION: Final = (
    "the section that fits beside any pyproject.toml: [pgconductor], script_location = "
    "pgconductor:migrations, version_locations = pgconductor:migrations/versions, path_separator "
    "= space; it is called with `alembic -n pgconductor`"
)


def check_section(config: Config) -> None:
    """Refuse options that are somebody else's, before anything is done.

    Args:
        config: Alembic's configuration.

    Raises:
        ConfigurationError: The section that was asked for does not say where our revisions are.
    """
    section = config.config_ini_section
    if config.file_config.has_option(section, "script_location"):
        return
    where = config.config_file_name or "the ini file"
    raise ConfigurationError(
        f"[{section}] of {where} has no script_location, and Alembic took it from pyproject.toml, "
        f"with the options of the application; {_SECTION}"
    )


def check_script(script: ScriptDirectory) -> None:
    """Refuse revisions that are not those of the environment's own folder.

    Args:
        script: The revisions as Alembic was configured to find them.

    Raises:
        ConfigurationError: There are others, or ours are not among them.
    """
    own = (Path(script.dir) / "versions").resolve()
    found = [Path(one.path).resolve() for one in script.walk_revisions()]
    others = sorted({str(path.parent) for path in found if own not in path.parents})
    if others:
        raise ConfigurationError(
            f"these revisions are not those of pgconductor: {', '.join(others)}. Alembic takes "
            "each option that a section of the ini file leaves out, version_locations among them, "
            f"from [DEFAULT] or from pyproject.toml. Nothing was done; {_SECTION}"
        )
    if not found and any(own.glob("[0-9]*.py")):
        raise ConfigurationError(
            f"Alembic found no revisions of pgconductor: it looked in "
            f"{', '.join(map(str, script.version_locations))}, and they are in {own}. Nothing was "
            f"done; {_SECTION}"
        )


def check_context(context: MigrationContext) -> None:
    """Refuse an environment that records our revisions where ours would not look for them.

    Args:
        context: In which a revision of ours is about to be applied or taken back.

    Raises:
        ConfigurationError: Revisions of others are in the same history, or it is recorded in
            another table than ours.
    """
    if context.script is None:
        # Called without Alembic's environment: nothing is recorded anywhere.
        return
    ours = (VERSION_TABLE, SCHEMA)
    if (context.version_table, context.version_table_schema) != ours:
        schema = context.version_table_schema
        table = f"{schema}.{context.version_table}" if schema else context.version_table
        raise ConfigurationError(
            f"revisions of pgconductor cannot be part of a history that is recorded in {table}: "
            "take their folder out of version_locations, and apply them with `pgconductor migrate` "
            "or `alembic -n pgconductor upgrade head`. An env.py of your own that applies nothing "
            f'else has version_table="{VERSION_TABLE}", version_table_schema="{SCHEMA}"'
        )
    check_script(context.script)
