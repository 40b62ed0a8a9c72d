"""The revisions: where they are, what they declare, and the ledger that they write.

What a user's own Alembic needs is here too: :func:`include_name`, :func:`script_location` and
:func:`alembic_config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from pgconductor.exceptions import RevisionMetadataError
from pgconductor.models import SCHEMA

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationInfo

__all__ = [
    "SCHEMA",
    "Revision",
    "alembic_config",
    "include_name",
    "record_revision",
    "record_stamp",
    "revisions",
    "script_location",
    "sql_file",
]


def script_location() -> Path:
    """The folder of the revisions: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
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
    """
    if type_ == "schema":
        return name != SCHEMA
    return bool(parent_names.get("schema_name") != SCHEMA)


@dataclass(frozen=True, slots=True)
class Revision:
    """What a revision declares.

    Attributes:
        version: Its number; ``0001`` is 1.
        name: What it does, in a few words.
        breaking: An orchestrator of a release that does not know it cannot work correctly after it.
    """

    version: int
    name: str
    breaking: bool

    @classmethod
    def read(cls, revision: object, name: object, breaking: object) -> Revision:
        """Check what a revision file declares.

        Raises:
            RevisionMetadataError: Something is missing or of the wrong type.
        """
        if not isinstance(revision, str) or re.fullmatch("[0-9]{4}", revision) is None:
            raise RevisionMetadataError(
                f"revision {revision!r}: its id must be four digits, the next number; make it "
                "with `alembic revision --rev-id 0002 -m ...`"
            )
        if not isinstance(name, str) or not name:
            raise RevisionMetadataError(f"revision {revision}: it declares no name")
        if not isinstance(breaking, bool):
            raise RevisionMetadataError(
                f"revision {revision}: breaking must be True or False, not {breaking!r}; decide "
                "whether an orchestrator that does not know it can go on after it"
            )
        return cls(int(revision), name, breaking)


def revisions(location: Path | None = None) -> tuple[Revision, ...]:
    """All shipped revisions, oldest first.

    Args:
        location: Another folder than ours.

    Raises:
        RevisionMetadataError: One of them does not declare what it must.
    """
    config = Config()
    config.set_main_option("script_location", str(location or script_location()).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    found = (_declared(script.revision, script.module) for script in scripts)
    return tuple(reversed(list(found)))


def _declared(revision: str, module: object) -> Revision:
    return Revision.read(revision, getattr(module, "name", None), getattr(module, "breaking", None))


class Operations(Protocol):
    """What ``alembic.op``, or an ``Operations`` object, does for a revision of ours."""

    def execute(self, sqltext: sa.Executable | str, /) -> None:
        """Execute a statement, or write it into the script."""
        ...


def sql_file(name: str) -> sa.TextClause:
    """A statement from the revisions' ``sql`` folder; colons in it are no parameters."""
    content = (script_location() / "sql" / name).read_text(encoding="utf-8")
    return sa.text(content.replace(":", r"\:"))


def record_revision(op: Operations, revision: str, *, name: str, breaking: bool | None) -> None:
    """Write a revision into the ledger and the gate, inside the revision's own transaction.

    Every ``upgrade()`` ends with it, so the ledger is right however the revision is applied: by
    our environment, by an application's own, or as a script made with ``--sql``.

    Args:
        op: Alembic's operations.
        revision: The revision's id.
        name: What it does.
        breaking: As :class:`Revision` says; None is refused.

    Raises:
        RevisionMetadataError: The revision does not declare what it must.
    """
    declared = Revision.read(revision, name, breaking)
    for statement in _ledger_statements(declared):
        op.execute(statement)


def _ledger_statements(revision: Revision) -> Iterable[sa.TextClause]:
    floor = revision.version if revision.breaking else 0
    # Literals, so that --sql renders them too; all come from a checked file of ours.
    yield sa.text(
        f"INSERT INTO {SCHEMA}.schema_migrations (version, name, breaking)"  # noqa: S608 - checked
        f" VALUES ({revision.version}, {_quoted(revision.name)}, {revision.breaking})"
        " ON CONFLICT (version) DO UPDATE"
        " SET name = excluded.name, breaking = excluded.breaking,"
        " applied_at = excluded.applied_at"
    )
    yield sa.text(
        f"INSERT INTO {SCHEMA}.schema_gate (installed, floor)"  # noqa: S608 - whole numbers
        f" VALUES ({revision.version}, {floor})"
        " ON CONFLICT (singleton) DO UPDATE SET installed = excluded.installed,"
        " floor = greatest(schema_gate.floor, excluded.floor)"
    )


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''").replace(":", r"\:") + "'"


def record_stamp(ctx: MigrationContext, step: MigrationInfo, **_: Any) -> None:
    """Keep ledger and gate in step with ``stamp`` and ``downgrade``; an ``on_version_apply``.

    ``upgrade`` writes its own, see :func:`record_revision`. Where the tables are not there, as
    after ``downgrade base`` or when an empty database is stamped, there is nothing to keep.

    Args:
        ctx: Alembic's migration context.
        step: What was just applied.
    """
    if step.is_upgrade and not step.is_stamp:
        return
    location = Path(ctx.script.dir) if ctx.script else None
    known = {f"{one.version:04d}": one for one in revisions(location)}
    applied = [known[rev] for rev in step.destination_revision_ids if rev in known]
    top = max((one.version for one in applied), default=0)
    statements = [
        f"DELETE FROM {SCHEMA}.schema_migrations WHERE version > {top};",  # noqa: S608 - a number
        *(
            f"INSERT INTO {SCHEMA}.schema_migrations (version, name, breaking)"  # noqa: S608 - checked
            f" VALUES ({one.version}, {_quoted(one.name)}, {one.breaking})"
            " ON CONFLICT (version) DO NOTHING;"
            for one in known.values()
            if one.version <= top
        ),
        (
            f"INSERT INTO {SCHEMA}.schema_gate (installed, floor)"  # noqa: S608 - a number
            f" SELECT {top}, coalesce(max(version) FILTER (WHERE breaking), 0)"
            f" FROM {SCHEMA}.schema_migrations"
            " ON CONFLICT (singleton) DO UPDATE"
            " SET installed = excluded.installed, floor = excluded.floor;"
        ),
    ]
    ctx.execute(
        sa.text(
            "DO $ledger$ BEGIN"
            f" IF to_regclass('{SCHEMA}.schema_migrations') IS NOT NULL THEN"
            f" {' '.join(statements)}"
            " END IF; END $ledger$"
        )
    )
