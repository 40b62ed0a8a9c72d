"""Errors of the schema, its revisions and their migration."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from pgconductor.exceptions.general import PgconductorError, RegistrationRefused

if TYPE_CHECKING:
    from pgconductor.domain.migrations import MigrationOutcome

__all__ = [
    "DowngradeRefused",
    "DrainTimeout",
    "HistoryMismatch",
    "LeaseLost",
    "LeaseTimeout",
    "LockWaitTimeout",
    "MigrationAborted",
    "MigrationError",
    "MigrationUnderWay",
    "NotDrained",
    "NotPrimary",
    "PoolerDetected",
    "PrivilegeMissing",
    "RevisionFailed",
    "RevisionMetadataError",
    "SchemaBehind",
    "SchemaError",
    "SchemaMissing",
    "SchemaTooNew",
]


class SchemaError(PgconductorError):
    """The database's schema and this release do not fit."""


class SchemaMissing(SchemaError):
    """The database has no pgconductor schema."""

    def __init__(self) -> None:
        super().__init__(
            "the database has no pgconductor schema; create it with `pgconductor migrate` "
            "or `alembic upgrade head`"
        )


class SchemaBehind(SchemaError):
    """The database lacks revisions that this release needs.

    Attributes:
        installed: The database's revision number.
        required: The lowest revision number that this release can work on.
    """

    def __init__(self, installed: int, required: int) -> None:
        super().__init__(
            f"the database is at revision {installed:04d}, this release needs {required:04d}; "
            "upgrade it with `pgconductor migrate` or `alembic upgrade head`"
        )
        self.installed = installed
        self.required = required


class SchemaTooNew(SchemaError):
    """The database has a breaking revision that this release does not know.

    Attributes:
        installed: The database's revision number.
        known: The highest revision number that this release knows.
        floor: The breaking revision that shuts this release out.
    """

    def __init__(self, installed: int, known: int, floor: int) -> None:
        super().__init__(
            f"the database is at revision {installed:04d}, and revision {floor:04d} is breaking; "
            f"this release knows revisions up to {known:04d}: deploy a newer pgconductor"
        )
        self.installed = installed
        self.known = known
        self.floor = floor


class RevisionMetadataError(SchemaError):
    """A revision that does not declare what every revision must, ``breaking`` above all."""


class MigrationUnderWay(RegistrationRefused):
    """A breaking migration is being prepared: whoever does not know its revision must not start.

    Attributes:
        known: The highest revision number that this release knows.
        target: The revision that is being prepared.
    """

    def __init__(self, known: int, target: int, holder: str | None) -> None:
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"a migration to revision {target:04d}, which shuts this release out, is being "
            f"prepared{by}; this release knows revisions up to {known:04d}: start a release that "
            "fits, or try again when the migration was given up"
        )
        self.known = known
        self.target = target


class MigrationError(SchemaError):
    """A migration was not done, or not to its end; the database is at a revision's boundary.

    Attributes:
        outcome: What had been done until then; None if nothing was tried.
    """

    outcome: MigrationOutcome | None = None


class LeaseTimeout(MigrationError):
    """Another migration is at work, and did not end in time; the message names its holder."""


class LeaseLost(MigrationError):
    """Another migration has taken the lease over, for this one had stood still for too long."""


class DrainTimeout(MigrationError):
    """Orchestrators that a revision shuts out have not left in time; the message names them.

    Attributes:
        orchestrators: Their ids.
    """

    def __init__(self, message: str, orchestrators: tuple[UUID, ...] = ()) -> None:
        super().__init__(message)
        self.orchestrators = orchestrators


class NotDrained(MigrationError):
    """A revision refused to be applied while orchestrators that it shuts out are registered."""


class LockWaitTimeout(MigrationError):
    """A revision did not get its locks in time; the message names who holds them."""


class RevisionFailed(MigrationError):
    """A statement of a revision failed; the revisions before it stay.

    Attributes:
        revision: Which one.
        sqlstate: The server's code for what went wrong, if it came from there.
    """

    def __init__(self, revision: int, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.revision = revision
        self.sqlstate = sqlstate


class HistoryMismatch(MigrationError):
    """The version table, the ledger, the gate and the revisions at hand do not fit together."""


class DowngradeRefused(MigrationError):
    """A revision that cannot be taken back."""


class PoolerDetected(MigrationError):
    """Migrations need a connection of their own, and a transaction pooler is between."""


class NotPrimary(MigrationError):
    """The server is a read-only standby."""


class PrivilegeMissing(MigrationError):
    """The role may not do what the migration needs; nothing was changed."""


class MigrationAborted(MigrationError):
    """The migration was told to stop; what it had announced is taken back."""
