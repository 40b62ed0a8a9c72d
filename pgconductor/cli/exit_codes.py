"""How the command line ends; scripts may rely on it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """The exit codes of every command; the attributes below become the end of ``--help``.

    Attributes:
        OK: done, or nothing to do; a worker has stopped cleanly
        ERROR: an unexpected error
        USAGE: wrong usage: an argument, a setting or an input that is not acceptable
        NOT_FOUND: no such execution, no such step of it, or no such task in the application
        FORCED: a worker had to leave handlers behind that did not end
        REFUSED: the execution's state does not allow it: finished already, or not to be retried
        FAILED: the execution that was waited for has failed or was cancelled
        TIMEOUT: the execution that was waited for has not finished in time
        UNREACHABLE: the database is out of reach, or refuses the login
        UNPROVEN: the demo's totals are not what a plain count says
        SCHEMA_TOO_NEW: the database has a breaking revision that this release does not know
        SCHEMA_BEHIND: the database lacks revisions, or has no pgconductor schema
        LEASE_HELD: another migration is at work and did not end in time, or has taken over
        NOT_DRAINED: orchestrators that a breaking revision shuts out have not left in time
        NOT_LOCKED: a revision did not get its locks in time
        PRIVILEGE: the database role lacks a privilege
        NOT_PRIMARY: the server is a read-only standby
        POOLED: a transaction pooler is between, where a migration needs the server itself
        REVISION_FAILED: a statement of a revision failed; the revisions before it stay
        HISTORY: version table, ledger, gate and revisions do not fit together
        DOWNGRADE_REFUSED: a revision that cannot be taken back
        ATTENTION: the doctor has found something that needs attention
        SHUTDOWN: a worker has stopped because the database asked for it
        EVICTED: a worker was found stale by others, who took its executions
        INTERRUPTED: stopped by Ctrl-C
        TERMINATED: a migration was stopped by SIGTERM
    """

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    FORCED = 4
    REFUSED = 5
    FAILED = 6
    TIMEOUT = 7
    UNREACHABLE = 8
    UNPROVEN = 9
    SCHEMA_TOO_NEW = 10
    SCHEMA_BEHIND = 11
    LEASE_HELD = 12
    NOT_DRAINED = 13
    NOT_LOCKED = 14
    PRIVILEGE = 15
    NOT_PRIMARY = 16
    POOLED = 17
    REVISION_FAILED = 18
    HISTORY = 19
    DOWNGRADE_REFUSED = 20
    ATTENTION = 21
    SHUTDOWN = 57
    EVICTED = 58
    INTERRUPTED = 130
    TERMINATED = 143

    @classmethod
    def meanings(cls) -> dict[ExitCode, str]:
        """What each code means, as the docstring has it."""
        lines = (line.strip() for line in (cls.__doc__ or "").splitlines())
        found = (line.partition(": ") for line in lines)
        return {cls[name]: text for name, _, text in found if text and name in cls.__members__}
