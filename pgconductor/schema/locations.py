"""Where the revisions are, and what an application's own Alembic needs of us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.config import Config

from pgconductor.exceptions import ConfigurationError
from pgconductor.models import SCHEMA

__all__ = ["alembic_config", "include_name", "script_location", "sql_file"]


def script_location() -> Path:
    """The folder of the revisions: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "alembic"
    # An editable install may hold a stale copy inside the package: the checkout comes first.
    return checkout if (checkout / "env.py").exists() else package / "migrations"


def alembic_config(database_url: str | sa.URL | None = None) -> Config:
    """An Alembic configuration for our revisions, for ``alembic.command``.

    Args:
        database_url: The database; the default is what the settings say.

    Returns:
        A configuration that needs no ini file.
    """
    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if database_url is not None:
        url = sa.make_url(database_url).render_as_string(hide_password=False)
        config.attributes["database_url"] = url
    return config


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """Keep our schema out of an application's own autogenerate.

    Pass it to ``context.configure(include_name=...)`` beside ``include_schemas=True``; without it
    Alembic proposes to drop every table of pgconductor.

    Args:
        name: Name of the object, None for the default schema.
        type_: Kind of the object, ``schema`` and so on.
        parent_names: Names of what holds it.

    Returns:
        False for what is ours.

    Raises:
        ConfigurationError: The connection's ``search_path`` begins with our schema, so that Alembic
            takes our tables for those of the application.
    """
    if type_ == "schema":
        if name is None and _default_schema() == SCHEMA:
            raise ConfigurationError(
                f"the search_path of this connection begins with {SCHEMA}: Alembic would take its "
                "tables for yours, propose to drop them, and make yours among them. Give the "
                'engine of your env.py a search_path of its own: connect_args={"options": '
                '"-c search_path=public"} for psycopg, {"server_settings": {"search_path": '
                '"public"}} for asyncpg'
            )
        return name != SCHEMA
    return bool(parent_names.get("schema_name") != SCHEMA)


def _default_schema() -> str | None:
    """The schema that the environment at work means by no name; None if none is at work."""
    try:
        return context.get_context().dialect.default_schema_name
    except (NameError, AttributeError):
        # Alembic's proxy stands for nothing yet, or for nothing any more.
        return None


def sql_file(name: str) -> sa.TextClause:
    """A statement from the revisions' ``sql`` folder; colons in it are no parameters."""
    content = (script_location() / "sql" / name).read_text(encoding="utf-8")
    return sa.text(content.replace(":", r"\:"))
