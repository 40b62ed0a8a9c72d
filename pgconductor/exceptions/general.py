"""Errors of invoking, executing and waiting, and the root of all."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

__all__ = [
    "ConfigurationError",
    "DedupeConflict",
    "DoNotRetry",
    "DuplicateStep",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "InvalidInput",
    "InvalidName",
    "InvalidPayload",
    "NaiveDatetime",
    "NotRegistered",
    "NotSupported",
    "OrchestratorError",
    "OwnershipLost",
    "PayloadDecodeError",
    "PgconductorError",
    "RegistrationRefused",
    "ResultEncodeError",
    "ResultTimeout",
    "RetryAfter",
    "StepError",
    "StepNotFound",
    "UnknownQueue",
    "UnknownTask",
    "WrongSession",
]


class PgconductorError(Exception):
    """Root of all errors that pgconductor raises on purpose."""


class ConfigurationError(PgconductorError):
    """Settings or arguments that cannot work together; the message names them."""


class InvalidInput(PgconductorError, ValueError):
    """Input refused at the boundary; nothing was written.

    Attributes:
        field: The argument at fault, for instance ``payload`` or ``run_at``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class InvalidName(InvalidInput):
    """A name that is empty, too long, or outside the documented alphabet."""


class InvalidPayload(InvalidInput):
    """A payload that is not of the task's type, or cannot be stored as JSON."""

    def __init__(self, message: str, field: str = "payload") -> None:
        super().__init__(field, message)


class NaiveDatetime(InvalidInput):
    """A datetime without a time zone, which could mean any of 38 instants."""

    def __init__(self, field: str) -> None:
        super().__init__(
            field,
            "a naive datetime is ambiguous; give it a time zone, as in datetime.now(UTC)",
        )


class WrongSession(InvalidInput):
    """A session of the wrong kind, of another database, or one that commits each statement."""

    def __init__(self, message: str) -> None:
        super().__init__("session", message)


class NotSupported(InvalidInput):
    """Something was asked for that this release does not have."""


class UnknownTask(PgconductorError, LookupError):
    """No task of that name is declared on this conductor."""

    def __init__(self, task_key: str, known: tuple[str, ...] = ()) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"no task {task_key!r} is declared here; known: {names}")
        self.task_key = task_key


class UnknownQueue(PgconductorError, LookupError):
    """Strict queues are on, and no task of this conductor declares that queue."""

    def __init__(self, queue: str, known: tuple[str, ...] = ()) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"no task declares queue {queue!r}, and queues are strict; known: {names}")
        self.queue = queue


class ExecutionNotFound(PgconductorError, LookupError):
    """No execution has that id: it never committed, or retention removed it."""

    def __init__(self, execution_id: UUID) -> None:
        super().__init__(f"no execution {execution_id}")
        self.execution_id = execution_id


class DedupeConflict(PgconductorError):
    """An unfinished execution already has the dedupe key of the one to be retried."""

    def __init__(self, execution_id: UUID) -> None:
        super().__init__(
            f"execution {execution_id} cannot be retried: an unfinished execution has its dedupe "
            "key; wait for that one or cancel it first"
        )
        self.execution_id = execution_id


class ExecutionFailed(PgconductorError):
    """The execution that was waited for has failed.

    Attributes:
        execution_id: Which one.
        error_type: Name of the type that the handler raised, for instance ``ValueError``.
        error_message: Its message.
    """

    def __init__(self, execution_id: UUID, error_type: str | None, error_message: str) -> None:
        shown = f"{error_type}: {error_message}" if error_type else error_message
        super().__init__(f"execution {execution_id} failed: {shown}")
        self.execution_id = execution_id
        self.error_type = error_type
        self.error_message = error_message


class ExecutionCancelled(PgconductorError):
    """The execution that was waited for was cancelled.

    Attributes:
        execution_id: Which one.
        reason: What the canceller gave as reason, if anything.
    """

    def __init__(self, execution_id: UUID, reason: str | None = None) -> None:
        super().__init__(
            f"execution {execution_id} was cancelled" + (f": {reason}" if reason else "")
        )
        self.execution_id = execution_id
        self.reason = reason


class ResultTimeout(PgconductorError, TimeoutError):
    """The execution did not finish in the time given; it goes on regardless."""

    def __init__(self, execution_id: UUID, timeout: timedelta) -> None:
        super().__init__(f"execution {execution_id} did not finish within {timeout}")
        self.execution_id = execution_id
        self.timeout = timeout


class PayloadDecodeError(PgconductorError):
    """A stored payload that this code cannot read; fails that execution only."""


class ResultEncodeError(PgconductorError):
    """A result that cannot be stored; what was not in a transaction with it has happened."""


class StepError(PgconductorError):
    """Root of what steps and waits raise; see :mod:`pgconductor.exceptions.durable`."""


class StepNotFound(StepError, LookupError):
    """The execution has no step of that key on record.

    Attributes:
        execution_id: The execution.
        key: The key.
    """

    def __init__(self, execution_id: UUID, key: str) -> None:
        super().__init__(
            f"execution {execution_id} has no step {key!r} on record; pgconductor show lists them"
        )
        self.execution_id = execution_id
        self.key = key


class DuplicateStep(StepError):
    """Two steps of one attempt have the same key, by which only one can be remembered.

    Or several branches, or a step and its handler, number the same key: their order may be another
    in a later attempt, so that one would be taken for the other.

    Attributes:
        execution_id: The execution.
        key: The key.
    """

    def __init__(self, execution_id: UUID, key: str, *, branches: bool = False) -> None:
        super().__init__(
            f"execution {execution_id} numbers {key!r} in more than one place, and their order may "
            "be another in a later attempt; give each branch a key of its own, an event by key="
            if branches
            else f"execution {execution_id} has taken step {key!r} already; give each step a key "
            f"of its own, or number them: ctx.numbered({key!r})"
        )
        self.execution_id = execution_id
        self.key = key


class DoNotRetry(PgconductorError):
    """Raised by a handler: the execution fails now, whatever attempts are left."""


class RetryAfter(PgconductorError):
    """Raised by a handler: try again after ``delay``, if an attempt is left.

    Attributes:
        delay: How long to wait, counted by the database's clock.
    """

    def __init__(self, delay: timedelta, message: str = "retry later") -> None:
        super().__init__(message)
        self.delay = delay


class OwnershipLost(PgconductorError):
    """The caller no longer holds the execution; what it wrote changed nothing.

    Attributes:
        execution_id: Which one.
    """

    def __init__(self, execution_id: UUID) -> None:
        super().__init__(
            f"execution {execution_id} is no longer held by this owner: it was recovered, "
            "cancelled or finished by somebody else"
        )
        self.execution_id = execution_id


class OrchestratorError(PgconductorError):
    """Something about an orchestrator's registration."""


class NotRegistered(OrchestratorError):
    """The orchestrator has no row: it was found stale and removed, or it has left.

    Attributes:
        orchestrator_id: Which one.
    """

    def __init__(self, orchestrator_id: UUID) -> None:
        super().__init__(
            f"orchestrator {orchestrator_id} is not registered: it was found stale and removed, "
            "or has left; start a new one, an identity is never used twice"
        )
        self.orchestrator_id = orchestrator_id


class RegistrationRefused(OrchestratorError):
    """The gate refused this orchestrator; the message names both versions."""
