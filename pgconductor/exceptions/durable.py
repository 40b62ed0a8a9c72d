"""What a durable handler may be told by its steps and waits."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pgconductor.exceptions.general import DoNotRetry, StepError

__all__ = [
    "ChildCancelled",
    "ChildError",
    "ChildFailed",
    "CompletionNotCommitted",
    "RaceNotRecorded",
    "ReplayMismatch",
    "StepFailed",
    "StepTimeout",
    "SuspensionSwallowed",
    "TransactionConflict",
    "TransactionMisused",
    "WaitTimeout",
]


class StepFailed(StepError):
    """A step has failed for good, and that is on record: each attempt is told the same.

    Attributes:
        key: The step.
        error_type: Name of the type of the error that its function raised.
        error_message: Its message.
    """

    def __init__(self, key: str, error_type: str, error_message: str) -> None:
        super().__init__(f"step {key!r} failed: {error_type}: {error_message}")
        self.key = key
        self.error_type = error_type
        self.error_message = error_message


class StepTimeout(StepError, TimeoutError):
    """The function of a step took longer than the step may.

    Attributes:
        key: The step.
        timeout: How long it may take.
    """

    def __init__(self, key: str, timeout: timedelta) -> None:
        super().__init__(f"step {key!r} took longer than {timeout}")
        self.key = key
        self.timeout = timeout


class WaitTimeout(StepError, TimeoutError):
    """What was waited for did not come in time; that is on record.

    Attributes:
        key: The wait.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"what {key!r} waits for did not come in time")
        self.key = key


class ChildError(StepError):
    """A child has not completed; that is on record.

    Attributes:
        key: The wait.
        child_id: The child.
        task: The child's task.
    """

    def __init__(self, message: str, key: str, child_id: UUID, task: str) -> None:
        super().__init__(message)
        self.key = key
        self.child_id = child_id
        self.task = task


class ChildFailed(ChildError):
    """A child has failed.

    Attributes:
        error_type: Name of the type of the error that its handler raised.
        error_message: Its message.
    """

    def __init__(
        self, key: str, child_id: UUID, task: str, error_type: str, error_message: str
    ) -> None:
        super().__init__(
            f"child {key!r} ({task}, {child_id}) failed: {error_type}: {error_message}",
            key,
            child_id,
            task,
        )
        self.error_type = error_type
        self.error_message = error_message


class ChildCancelled(ChildError):
    """A child was cancelled.

    Attributes:
        reason: Why, or empty.
    """

    def __init__(self, key: str, child_id: UUID, task: str, reason: str) -> None:
        shown = f": {reason}" if reason else ""
        super().__init__(
            f"child {key!r} ({task}, {child_id}) was cancelled{shown}", key, child_id, task
        )
        self.reason = reason


class ReplayMismatch(StepError):
    """The handler does not do what its execution has on record: its code was changed.

    Attributes:
        execution_id: The execution.
        expected: What is on record.
        found: What the handler has asked for.
    """

    def __init__(
        self,
        execution_id: UUID,
        expected: str,
        found: str,
        why: str = "The handler was changed since.",
    ) -> None:
        super().__init__(
            f"execution {execution_id} does not match its record: expected {expected}, found "
            f"{found}. {why} Put back what it did, or guard the change by "
            "ctx.patched(); or drop what does not fit: pgconductor retry --from-step KEY, or "
            "--from-scratch"
        )
        self.execution_id = execution_id
        self.expected = expected
        self.found = found


class SuspensionSwallowed(DoNotRetry):
    """The handler caught what ends it while it waits, by a bare ``except`` or ``BaseException``."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the handler went on while {key!r} waits: it caught the BaseException that suspends "
            "it. Catch Exception instead, or raise again what is not one; then retry the execution"
        )


class RaceNotRecorded(DoNotRetry):
    """A wait was given up because of a clock of this process: which was first is not on record.

    A later attempt may see the other one. Nothing can be begun any more in an attempt that was told
    so.

    Attributes:
        keys: What was waited for.
    """

    def __init__(self, *keys: str) -> None:
        super().__init__(
            f"{', '.join(map(repr, keys))} raced with a clock of this process, as asyncio.timeout, "
            "asyncio.wait_for and asyncio.wait(timeout=...) have one: which was first is not on "
            "record, and a later attempt may see the other. Give the wait a timeout, or have it "
            "race with a sleep: ctx.first(key, ..., ctx.sleep(...)); then retry the execution"
        )
        self.keys = keys


class CompletionNotCommitted(StepError):
    """The handler has returned after ``complete_in``, but its transaction did not commit."""

    def __init__(self, execution_id: UUID) -> None:
        super().__init__(
            f"execution {execution_id} was completed in a transaction that did not commit"
        )
        self.execution_id = execution_id


class TransactionMisused(DoNotRetry):
    """A transactional step has ended its transaction itself, so nothing ties its writes to it.

    Or it has caught an error by which its transaction was aborted, so nothing is written.

    Attributes:
        aborted: Whether it is the latter.
    """

    def __init__(self, *, aborted: bool = False) -> None:
        super().__init__(
            "a transactional step has caught an error of the database, by which its transaction is "
            "aborted: nothing was written. Put what may fail into a savepoint, inside of the try: "
            "async with session.begin_nested()"
            if aborted
            else "a transactional step has committed, rolled back or closed its session itself: "
            "what it wrote is not tied to its record, which was not written. Leave that to ctx; "
            "session.begin_nested() is for a part that may fail"
        )
        self.aborted = aborted


class TransactionConflict(StepError):
    """A transactional step ended in a conflict with others; the attempt is tried again.

    A block cannot be executed again, so the attempt is. A function given to ``ctx.transact()`` is
    called again in place, ten times, before it comes to this.

    Attributes:
        key: The step.
        by_others: Whether nothing that the handler does has to do with it: a migration altered a
            table meanwhile, or a statement of pgconductor's met a lock. The attempt is given back
            then, and does not count.
    """

    def __init__(self, key: str, *, by_others: bool = False) -> None:
        super().__init__(
            f"transaction {key!r} was ended by the server, through no doing of the handler's; the "
            "attempt is tried again, and not counted"
            if by_others
            else f"transaction {key!r} ended in a conflict with another one; a block cannot be "
            "executed again, so the attempt is. Give a function to ctx.transact() to retry in place"
        )
        self.key = key
        self.by_others = by_others
