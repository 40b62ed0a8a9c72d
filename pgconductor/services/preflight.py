"""Before a migration: is this the right server, may the role do it, and where is the database."""

from __future__ import annotations

from typing import Final

from pgconductor.domain.migrations import History, Server
from pgconductor.exceptions import (
    HistoryMismatch,
    NotPrimary,
    PoolerDetected,
    PrivilegeMissing,
    SchemaTooNew,
)
from pgconductor.models import SCHEMA, VERSION_TABLE

__all__ = ["check_history", "check_server"]

# Both do nothing that is wrong wherever and whenever somebody follows the advice.
_FORGET: Final = (
    f"DELETE FROM {SCHEMA}.{VERSION_TABLE} "  # noqa: S608 - names of ours
    f"WHERE pg_catalog.to_regclass('{SCHEMA}.schema_gate') IS NULL"
)
_FOLLOW: Final = (
    f"BEGIN; DELETE FROM {SCHEMA}.{VERSION_TABLE}; "  # noqa: S608 - names of ours
    f"INSERT INTO {SCHEMA}.{VERSION_TABLE} "
    f"SELECT lpad(CAST(installed AS text), 4, '0') FROM {SCHEMA}.schema_gate; COMMIT"
)


def check_server(server: Server, *, driver_pid: int | None, pooled: bool | None) -> None:
    """Refuse where a migration could not end well; nothing has been changed.

    Args:
        server: What it says of itself.
        driver_pid: The server process that the driver believes to talk to.
        pooled: False if the user says that no transaction pooler is between.

    Raises:
        NotPrimary: It is a standby, or read-only otherwise.
        PoolerDetected: Something between gives each transaction whichever connection is free.
        PrivilegeMissing: The role may not do it.
    """
    if server.in_recovery:
        raise NotPrimary(
            "the server is a read-only standby; several hosts and target_session_attrs=primary in "
            "the URL lead to the primary"
        )
    if server.read_only:
        raise NotPrimary(
            f"transactions are read-only here: default_transaction_read_only is set for role "
            f"{server.role}, for database {server.database} or in the URL"
        )
    if pooled is not False and driver_pid not in (None, server.backend_pid):
        raise PoolerDetected(
            "this connection leads through a pooler; migrations need one of their own: set "
            "PGCONDUCTOR_DIRECT_URL to an address of the server itself (or PGCONDUCTOR_POOLED="
            "false, if the pooler gives each session a connection of its own)"
        )
    _check_privileges(server)


def _check_privileges(server: Server) -> None:
    role = server.role
    if not server.has_schema:
        if not server.may_create:
            raise PrivilegeMissing(
                f"role {role} may not create schema {SCHEMA} in database {server.database}; as a "
                f"superuser: CREATE SCHEMA {SCHEMA} AUTHORIZATION {role}"
            )
    elif not (server.may_use and server.may_create):
        raise PrivilegeMissing(
            f"role {role} may not use or change schema {SCHEMA}; migrate as its owner, or as a "
            f"superuser: GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {role}"
        )
    elif server.not_owned:
        raise PrivilegeMissing(
            f"role {role} does not own {', '.join(server.not_owned)} in schema {SCHEMA}, and only "
            f"owners may change tables; migrate as their owner, or as a superuser: "
            f"GRANT (their owner) TO {role}"
        )


def check_history(history: History, known: int, *, upgrade: bool) -> SchemaTooNew | None:
    """Compare the database with the revisions at hand.

    Args:
        history: What the database says.
        known: The highest revision at hand.
        upgrade: The way of the command.

    Returns:
        What keeps this release from working there, if the database is too new for it.

    Raises:
        HistoryMismatch: The database contradicts itself, or has revisions that this release would
            have to take back and does not know.
    """
    if not history.agrees:
        raise HistoryMismatch(f"{history}; {_what_to_do(history)}")
    if history.installed <= known:
        return None
    if not upgrade:
        raise HistoryMismatch(
            f"the database is at {history.installed:04d}, and this release knows revisions up to "
            f"{known:04d}: go back with the release that knows the others"
        )
    if history.floor > known:
        return SchemaTooNew(history.installed, known, history.floor)
    return None


def _what_to_do(history: History) -> str:
    """Advice that destroys nothing, whoever follows it and whenever."""
    if not history.tables:
        return (
            "bring them back from a backup. Where there never were any, this makes the version "
            f"table forget: {_FORGET}"
        )
    if history.recorded == history.entries == history.installed > 0:
        return (
            "ledger and gate agree, so that the version table was changed by hand, or the "
            f"revisions were applied with another one. This has it say what they say: {_FOLLOW}"
        )
    return (
        "somebody has changed one of them by hand. `pgconductor doctor` says whether the tables "
        "are those of the gate's revision. Orchestrators go by the gate and stop if it is set "
        "back: have the others follow it, unless it is the one that is wrong"
    )
