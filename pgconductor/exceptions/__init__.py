"""Every error that pgconductor raises, under one root.

::

    PgconductorError
    ├── ConfigurationError            settings or arguments that cannot work together
    ├── InvalidInput (ValueError)     refused at the boundary; nothing was written
    │   ├── InvalidName               task, queue, step or dedupe key outside its alphabet
    │   ├── InvalidPayload            not of the task's type, or not strict JSON
    │   ├── NaiveDatetime             a datetime without a time zone
    │   ├── WrongSession              sync where async is due, another database, autocommit
    │   └── NotSupported              asked for something that this release does not have
    ├── UnknownTask                   no task of that name in this conductor
    ├── UnknownQueue                  strict queues are on and no task declares that queue
    ├── ExecutionNotFound             no row with that id
    ├── DedupeConflict                a retry would make two unfinished executions of one key
    ├── ExecutionFailed               the execution that was waited for has failed
    ├── ExecutionCancelled            the execution that was waited for was cancelled
    ├── ResultTimeout (TimeoutError)  not finished in the time given
    ├── PayloadDecodeError            a stored payload that this code cannot read
    ├── ResultEncodeError             a handler's result that cannot be stored
    ├── StepError                     what steps and waits raise
    │   ├── StepNotFound              the execution has no such step on record
    │   ├── DuplicateStep             two steps of one attempt have the same key
    │   ├── StepFailed                a step has failed for good, and that is on record
    │   ├── StepTimeout               a step's function took longer than it may
    │   ├── WaitTimeout               what was waited for did not come in time
    │   ├── ChildError                a child has not completed
    │   │   ├── ChildFailed           it has failed
    │   │   └── ChildCancelled        it was cancelled
    │   ├── ReplayMismatch            the handler does not do what its execution has on record
    │   ├── CompletionNotCommitted    what complete_in() was to complete was rolled back
    │   └── TransactionConflict       a block's transaction ended in a conflict
    ├── DoNotRetry                    raised by a handler: fail now, whatever attempts are left
    │   ├── SuspensionSwallowed       a handler went on while it was to be suspended
    │   └── TransactionMisused        a transactional step has ended its transaction, or aborted it
    ├── RetryAfter                    raised by a handler: retry after this delay
    ├── OwnershipLost                 the caller no longer holds the execution
    ├── OrchestratorError
    │   ├── NotRegistered             the orchestrator's row is gone: evicted, or it never was
    │   └── RegistrationRefused       the gate refused this version
    │       └── MigrationUnderWay     a breaking migration is being prepared
    └── SchemaError
        ├── SchemaMissing             the database has no pgconductor schema
        ├── SchemaBehind              the database lacks revisions that this release needs
        ├── SchemaTooNew              a breaking revision that this release does not know
        ├── RevisionMetadataError     a revision that does not declare what it must
        └── MigrationError            a migration was not done, or not to its end
            ├── LeaseTimeout          another migration is at work
            ├── LeaseLost             another migration has taken over
            ├── DrainTimeout          orchestrators of an older release have not left in time
            ├── NotDrained            a revision refused to be applied while they are there
            ├── LockWaitTimeout       a revision did not get its locks in time
            ├── RevisionFailed        a statement of a revision failed
            ├── HistoryMismatch       version table, ledger, gate and revisions do not fit together
            ├── DowngradeRefused      a revision that cannot be taken back
            ├── PoolerDetected        a transaction pooler is between
            ├── NotPrimary            the server is a read-only standby
            ├── PrivilegeMissing      the role may not do it
            └── MigrationAborted      it was told to stop
"""

from pgconductor.exceptions.durable import (
    ChildCancelled,
    ChildError,
    ChildFailed,
    CompletionNotCommitted,
    RaceNotRecorded,
    ReplayMismatch,
    StepFailed,
    StepTimeout,
    SuspensionSwallowed,
    TransactionConflict,
    TransactionMisused,
    WaitTimeout,
)
from pgconductor.exceptions.general import (
    ConfigurationError,
    DedupeConflict,
    DoNotRetry,
    DuplicateStep,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    InvalidInput,
    InvalidName,
    InvalidPayload,
    NaiveDatetime,
    NotRegistered,
    NotSupported,
    OrchestratorError,
    OwnershipLost,
    PayloadDecodeError,
    PgconductorError,
    RegistrationRefused,
    ResultEncodeError,
    ResultTimeout,
    RetryAfter,
    StepError,
    StepNotFound,
    UnknownQueue,
    UnknownTask,
    WrongSession,
)
from pgconductor.exceptions.schema import (
    DowngradeRefused,
    DrainTimeout,
    HistoryMismatch,
    LeaseLost,
    LeaseTimeout,
    LockWaitTimeout,
    MigrationAborted,
    MigrationError,
    MigrationUnderWay,
    NotDrained,
    NotPrimary,
    PoolerDetected,
    PrivilegeMissing,
    RevisionFailed,
    RevisionMetadataError,
    SchemaBehind,
    SchemaError,
    SchemaMissing,
    SchemaTooNew,
)

__all__ = [
    "ChildCancelled",
    "ChildError",
    "ChildFailed",
    "CompletionNotCommitted",
    "ConfigurationError",
    "DedupeConflict",
    "DoNotRetry",
    "DowngradeRefused",
    "DrainTimeout",
    "DuplicateStep",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "HistoryMismatch",
    "InvalidInput",
    "InvalidName",
    "InvalidPayload",
    "LeaseLost",
    "LeaseTimeout",
    "LockWaitTimeout",
    "MigrationAborted",
    "MigrationError",
    "MigrationUnderWay",
    "NaiveDatetime",
    "NotDrained",
    "NotPrimary",
    "NotRegistered",
    "NotSupported",
    "OrchestratorError",
    "OwnershipLost",
    "PayloadDecodeError",
    "PgconductorError",
    "PoolerDetected",
    "PrivilegeMissing",
    "RaceNotRecorded",
    "RegistrationRefused",
    "ReplayMismatch",
    "ResultEncodeError",
    "ResultTimeout",
    "RetryAfter",
    "RevisionFailed",
    "RevisionMetadataError",
    "SchemaBehind",
    "SchemaError",
    "SchemaMissing",
    "SchemaTooNew",
    "StepError",
    "StepFailed",
    "StepNotFound",
    "StepTimeout",
    "SuspensionSwallowed",
    "TransactionConflict",
    "TransactionMisused",
    "UnknownQueue",
    "UnknownTask",
    "WaitTimeout",
    "WrongSession",
]
