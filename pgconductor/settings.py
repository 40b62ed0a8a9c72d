"""Settings: from arguments, the environment (``PGCONDUCTOR_…``) or a ``.env`` file."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pgconductor.domain.migrations import MigrationOptions, OnDeadline, StartupPolicy
from pgconductor.domain.retention import (
    FOREVER,
    RETAIN_COMPLETED,
    RETAIN_EVENTS,
    RETAIN_FAILED,
    Keep,
    Retention,
)
from pgconductor.exceptions import ConfigurationError, InvalidInput

__all__ = ["Settings", "normalise_url"]


def _seconds(value: Any) -> Any:
    """Let a bare number mean seconds, in the environment too; ISO 8601 passes through."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except (ValueError, OverflowError):
            return value
    return value


_UNREADABLE: Final = (
    "the database URL cannot be read; it should look like "
    "postgresql://user:password@host:5432/database, other characters as %40, and several hosts as "
    "postgresql://user:password@/database?host=h1:5432&host=h2:5433"
)

Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]


def _keep(value: Any) -> Keep:
    """A duration, or the word ``forever``; one message for both."""
    if value == FOREVER:
        return FOREVER
    try:
        return (
            Retention(TypeAdapter(timedelta).validate_python(_seconds(value))).completed or FOREVER
        )
    except (ValidationError, InvalidInput):
        raise ValueError(
            "give seconds or ISO 8601, above zero and at most ten years, or 'forever'"
        ) from None


KeptFor = Annotated[Keep, BeforeValidator(_keep)]


def normalise_url(url: str | URL, *, driver: str = "asyncpg") -> URL:
    """Read a database URL and set its driver.

    ``postgres://`` and ``postgresql://`` with any driver are accepted; several hosts go into the
    query, as in ``postgresql:///db?host=h1:5432&host=h2:5432&target_session_attrs=primary``.
    ``sslmode`` is asyncpg's ``ssl``, and either may be given.

    Args:
        url: What the user gave.
        driver: ``asyncpg`` or ``psycopg``.

    Raises:
        ConfigurationError: It is no URL, or not of a Postgres. The message shows no password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The message would repeat the text, or what looks like a port: it may hold a password.
        raise ConfigurationError(_UNREADABLE) from None
    if parsed.host is not None and "," in parsed.host:
        raise ConfigurationError(_UNREADABLE)
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(
            f"the database URL is for {parsed.get_backend_name()!r}; pgconductor needs postgresql"
        )
    query = dict(parsed.query)
    theirs, ours = ("sslmode", "ssl") if driver == "asyncpg" else ("ssl", "sslmode")
    if theirs in query:
        query[ours] = query.pop(theirs)
    found = parsed.set(drivername=f"postgresql+{driver}", query=query)
    try:
        # Several hosts are read by the dialect only, when it connects.
        found.get_dialect()().create_connect_args(found)
    except ArgumentError:
        raise ConfigurationError(_UNREADABLE) from None
    return found


class Settings(BaseSettings):
    """How pgconductor finds its database and how patient it is.

    Durations are seconds (``5``, ``0.5``) or ISO 8601 (``PT5S``). Each field may be given as an
    argument, or in the environment as ``PGCONDUCTOR_`` and its name in capitals.

    Attributes:
        database_url: Where the database is; ``DATABASE_URL`` is read as well. It may lead through
            a pooler.
        direct_url: A way to the database around any pooler, for LISTEN and migrations; the default
            is ``database_url``.
        pooled: Whether a pooler that gives each transaction another connection is behind
            ``database_url``, or the engine; unless given, each connection is asked.
        listen: Whether to wake up by LISTEN/NOTIFY; polling goes on in any case.
        poll_interval: How often a worker looks without having been woken.
        heartbeat_interval: How often an orchestrator proves that it lives.
        stale_after: How long its heartbeat may be silent before others take its executions back.
        self_fence_after: How long after its last acknowledged heartbeat an orchestrator interrupts
            its handlers and starts nothing, until one is acknowledged again; less than
            ``stale_after``.
        sweep_interval: How often an orchestrator looks for stale ones; at most half of
            ``stale_after``.
        shutdown_grace: How long handlers may go on after a stop was asked for.
        suspend_after: How long a handler that does nothing but wait stays in memory, where it takes
            up no slot; then it is suspended, and another attempt goes on from there.
        give_back_after: How long a fetched execution, or a handler whose wait is over, may wait for
            a free slot before it is given back to others.
        max_loop_stall: How long the event loop may be blocked before the orchestrator counts as
            dead, heartbeat or not.
        startup_timeout: How long starting may take, retries included.
        command_timeout: How long one statement of the engine may take.
        concurrency: How many handlers a worker executes at once, unless told otherwise.
        max_payload_bytes: Largest payload, as JSON.
        max_result_bytes: Largest result, as JSON.
        strict_queues: Whether invoking into a queue that no task declares is refused.
        retain_completed: How long completed executions are kept, or ``forever``; a task may say
            otherwise.
        retain_failed: The same for failed and cancelled ones.
        retain_events: How long events are kept, or ``forever``.
        startup_policy: What an orchestrator does at its start where the database lacks revisions
            that it needs: ``wait`` until a deployment has applied them, ``upgrade`` the database
            itself, or ``refuse``.
        startup_wait: How long it waits for them.
        migration_lease_wait: How long a migration waits for another one to end.
        migration_drain_timeout: How long a migration waits for orchestrators that a breaking
            revision shuts out.
        migration_on_drain_timeout: What happens to those that are there still: ``fail`` the
            migration, or ``evict`` them.
        migration_lock_timeout: How long one try of a revision may wait for each of its locks, and
            everybody else behind it.
        migration_lock_wait: How long a revision is tried again for want of its locks.

    Raises:
        ConfigurationError: Some of them cannot work together.
    """

    model_config = SettingsConfigDict(
        env_prefix="PGCONDUCTOR_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may hold a password
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("PGCONDUCTOR_DATABASE_URL", "DATABASE_URL"),
    )
    direct_url: SecretStr | None = None
    pooled: bool | None = None
    listen: bool = True
    poll_interval: Duration = timedelta(seconds=1)
    heartbeat_interval: Duration = timedelta(seconds=5)
    stale_after: Duration = timedelta(seconds=30)
    self_fence_after: Duration = timedelta(seconds=20)
    sweep_interval: Duration = timedelta(seconds=10)
    shutdown_grace: Duration = timedelta(seconds=25)
    suspend_after: Duration = timedelta(seconds=1)
    give_back_after: Duration = timedelta(seconds=2)
    max_loop_stall: Duration = timedelta(minutes=10)
    startup_timeout: Duration = timedelta(seconds=60)
    command_timeout: Duration = timedelta(seconds=30)
    concurrency: int = Field(default=10, ge=1, le=10_000)
    max_payload_bytes: int = Field(default=256 * 1024, ge=2, le=8 * 1024 * 1024)
    max_result_bytes: int = Field(default=1024 * 1024, ge=2, le=8 * 1024 * 1024)
    strict_queues: bool = False
    retain_completed: KeptFor = RETAIN_COMPLETED
    retain_failed: KeptFor = RETAIN_FAILED
    retain_events: KeptFor = RETAIN_EVENTS
    startup_policy: StartupPolicy = StartupPolicy.WAIT
    startup_wait: Duration = timedelta(minutes=5)
    migration_lease_wait: Duration = MigrationOptions.lease_wait
    migration_drain_timeout: Duration = MigrationOptions.drain_timeout
    migration_on_drain_timeout: OnDeadline = OnDeadline.FAIL
    migration_lock_timeout: Duration = MigrationOptions.lock_timeout
    migration_lock_wait: Duration = MigrationOptions.lock_wait

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.heartbeat_interval < self.self_fence_after < self.stale_after:
            # Not a ValueError: pydantic's own error would carry all values, the URL's password too.
            raise ConfigurationError(
                "heartbeat_interval < self_fence_after < stale_after must hold, not "
                f"{self.heartbeat_interval}, {self.self_fence_after}, {self.stale_after}"
            )
        if self.sweep_interval * 2 > self.stale_after:
            raise ConfigurationError(
                "sweep_interval must be at most half of stale_after, not "
                f"{self.sweep_interval} of {self.stale_after}: who looks less often sees nobody die"
            )
        return self

    @property
    def retention(self) -> Retention:
        """How long executions are kept of tasks that do not say otherwise."""
        return Retention.of(self.retain_completed, self.retain_failed)

    @property
    def migration_options(self) -> MigrationOptions:
        """How patient a migration is."""
        return MigrationOptions(
            lease_wait=self.migration_lease_wait,
            drain_timeout=self.migration_drain_timeout,
            on_drain_timeout=self.migration_on_drain_timeout,
            lock_timeout=self.migration_lock_timeout,
            lock_wait=self.migration_lock_wait,
            stale_after=self.stale_after,
        )

    def require_url(self, *, direct: bool = False, driver: str = "asyncpg") -> URL:
        """The database's URL.

        Args:
            direct: Prefer the way around the pooler.
            driver: ``asyncpg`` or ``psycopg``.

        Raises:
            ConfigurationError: There is none, or it cannot be read.
        """
        secret = (self.direct_url if direct else None) or self.database_url
        if secret is None:
            raise ConfigurationError(
                "no database given: set PGCONDUCTOR_DATABASE_URL (or DATABASE_URL), or pass "
                "database_url, engine or sessionmaker to Conductor"
            )
        return normalise_url(secret.get_secret_value(), driver=driver)
