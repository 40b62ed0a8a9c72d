"""Settings: where they come from, what they refuse, and that no password gets out."""

from __future__ import annotations

import inspect
import os
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from pgconductor.domain.migrations import OnDeadline, StartupPolicy
from pgconductor.exceptions import ConfigurationError
from pgconductor.settings import Settings, normalise_url

SECRET = "s3cr3t"
URL = f"postgresql://user:{SECRET}@host/db"
DURATIONS = (
    "poll_interval",
    "heartbeat_interval",
    "stale_after",
    "self_fence_after",
    "sweep_interval",
    "shutdown_grace",
    "suspend_after",
    "give_back_after",
    "max_loop_stall",
    "startup_timeout",
    "command_timeout",
    "retain_completed",
    "retain_failed",
    "retain_events",
    "startup_wait",
    "migration_lease_wait",
    "migration_drain_timeout",
    "migration_lock_timeout",
    "migration_lock_wait",
)


def settings_of(**given: Any) -> Settings:
    """Settings from arguments as an application writes them: text, numbers."""
    return Settings(**given)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env file but the test's own."""
    for name in list(os.environ):
        if name.upper().startswith("PGCONDUCTOR_") or name.upper() == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def shown(error: BaseException) -> str:
    """Everything that a log could show of an error: its texts, its causes, its parts."""
    parts = [*traceback.format_exception(error), repr(error), str(error)]
    if isinstance(error, ValidationError):
        parts.append(str(error.json()))
    return "\n".join(parts)


# --- where they come from ------------------------------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(Settings(), name)
    given = {
        bool: str(not default),
        int: str((default or 0) + 1) if isinstance(default, int) else "",
        timedelta: {"heartbeat_interval": "19", "sweep_interval": "9"}.get(name, "21"),
        type(None): "true" if name == "pooled" else URL,
        StartupPolicy: "upgrade",
        OnDeadline: "evict",
    }[type(default)]
    monkeypatch.setenv(f"PGCONDUCTOR_{name.upper()}", given)
    assert getattr(Settings(), name) != default


def test_who_looks_too_seldom_sees_nobody_die() -> None:
    """Recovery: an observer begins anew after a gap of ``stale_after``."""
    assert Settings(sweep_interval=timedelta(seconds=15)).sweep_interval == timedelta(seconds=15)
    with pytest.raises(ConfigurationError, match="sweep_interval must be at most half"):
        Settings(sweep_interval=timedelta(seconds=16))


def test_every_setting_is_described() -> None:
    described = inspect.getdoc(Settings) or ""
    for name in Settings.model_fields:
        assert f"    {name}: " in described


def test_database_url_is_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://everybody/db")
    assert Settings().require_url().host == "everybody"
    monkeypatch.setenv("PGCONDUCTOR_DATABASE_URL", "postgresql://ours/db")
    assert Settings().require_url().host == "ours"
    assert settings_of(database_url="postgresql://argument/db").require_url().host == "argument"


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONDUCTOR_DATABASE_URL", "")
    monkeypatch.setenv("PGCONDUCTOR_POLL_INTERVAL", "")
    monkeypatch.setenv("DATABASE_URL", "postgresql://everybody/db")
    assert Settings().require_url().host == "everybody"
    assert Settings().poll_interval == timedelta(seconds=1)


def test_a_file_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "PGCONDUCTOR_POLL_INTERVAL=3\nDATABASE_URL=postgresql://file/db\nOTHERS=1\n"
    )
    assert Settings().poll_interval == timedelta(seconds=3)
    assert Settings().require_url().host == "file"
    monkeypatch.setenv("PGCONDUCTOR_POLL_INTERVAL", "4")
    assert Settings().poll_interval == timedelta(seconds=4)


def test_a_direct_way_for_listen_and_migrations() -> None:
    settings = settings_of(
        database_url="postgresql://pooler/db", direct_url="postgresql://direct/db"
    )
    assert settings.require_url().host == "pooler"
    assert settings.require_url(direct=True).host == "direct"
    assert settings_of(database_url="postgresql://one/db").require_url(direct=True).host == "one"


def test_without_a_database() -> None:
    with pytest.raises(ConfigurationError, match=r"set PGCONDUCTOR_DATABASE_URL \(or DATABASE_URL"):
        Settings().require_url()


# --- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("21", 21.0),
        ("21.5", 21.5),
        (" 21 ", 21.0),
        ("2.15e1", 21.5),
        ("PT21S", 21.0),
        ("PT21.5S", 21.5),
        ("00:00:21", 21.0),
        (21, 21.0),
        (21.5, 21.5),
        (timedelta(seconds=21), 21.0),
    ],
)
def test_durations(given: Any, seconds: float) -> None:
    settings = settings_of(self_fence_after=given)
    assert settings.self_fence_after == timedelta(seconds=seconds)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "given", ["0", "-1", "PT0S", "-PT1S", 0, timedelta(0), "inf", "1e400", "1e20", "nan", "soon"]
)
def test_durations_that_are_none(name: str, given: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        settings_of(**{name: given})


def test_all_durations_are_tried() -> None:
    settings = Settings()
    found = {name for name in Settings.model_fields if type(getattr(settings, name)) is timedelta}
    assert found == set(DURATIONS)


# --- what does not go together -------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"stale_after": 20},
        {"self_fence_after": 30},
        {"self_fence_after": 5},
        {"heartbeat_interval": 20},
        {"heartbeat_interval": 60, "self_fence_after": 50, "stale_after": 40},
    ],
)
def test_a_heartbeat_must_be_in_time(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="heartbeat_interval < self_fence_after < stale_"):
        settings_of(**given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("concurrency", 0),
        ("concurrency", 10_001),
        ("concurrency", "many"),
        ("concurrency", 1.5),
        ("max_payload_bytes", 1),
        ("max_payload_bytes", 8 * 1024 * 1024 + 1),
        ("max_result_bytes", 1),
        ("max_result_bytes", 8 * 1024 * 1024 + 1),
        ("listen", "perhaps"),
        ("strict_queues", 7),
        ("database_url", 7),
    ],
)
def test_values_out_of_range(name: str, given: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        settings_of(**{name: given})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().concurrency = 3  # type: ignore[misc]


# --- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://u:p@host:5433/db",
        "postgres://u:p@host:5433/db",
        "postgresql+asyncpg://u:p@host:5433/db",
        "postgresql+psycopg://u:p@host:5433/db",
        "postgresql+psycopg2://u:p@host:5433/db",
        make_url("postgresql+pg8000://u:p@host:5433/db"),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_every_way_to_write_it(given: Any, driver: str) -> None:
    url = normalise_url(given, driver=driver)
    expected = f"postgresql+{driver}://u:p@host:5433/db"
    assert url.render_as_string(hide_password=False) == expected


def test_characters_that_mean_something() -> None:
    url = normalise_url("postgresql://us%40er:p%2Fa%3As%25s@host/d%20b")
    assert (url.username, url.password, url.database) == ("us@er", "p/a:s%s", "d b")


def test_a_socket() -> None:
    url = normalise_url("postgresql:///db?host=/var/sockets&port=5433")
    assert url.host is None
    assert dict(url.query) == {"host": "/var/sockets", "port": "5433"}


def test_several_hosts() -> None:
    url = normalise_url("postgresql://u@/db?host=h1:5432&host=h2:5433&target_session_attrs=primary")
    assert url.query["host"] == ("h1:5432", "h2:5433")
    assert url.query["target_session_attrs"] == "primary"


def test_several_hosts_as_libpq_writes_them() -> None:
    with pytest.raises(ConfigurationError, match=r"\?host=h1:5432&host=h2:5433"):
        normalise_url(f"postgresql://u:{SECRET}@h1:5432,h2:5433/db")


@pytest.mark.parametrize("mode", ["disable", "require", "verify-full"])
def test_encryption_is_called_differently_by_each_driver(mode: str) -> None:
    for name in ("sslmode", "ssl"):
        url = f"postgresql://u@host/db?{name}={mode}&application_name=x"
        assert dict(normalise_url(url).query) == {"ssl": mode, "application_name": "x"}
        assert normalise_url(url, driver="psycopg").query["sslmode"] == mode


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ("mysql://u:{}@host/db", "mysql"),
        ("sqlite:///file.db", "sqlite"),
        ("cockroachdb://u:{}@h/db", "cockroachdb"),
        ("http://u:{}@host/db", "http"),
    ],
)
def test_another_database(given: str, backend: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is for '{backend}'; .* needs") as caught:
        normalise_url(given.format(SECRET))
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "nothing",
        f"user:{SECRET}@host/db",
        f"//user:{SECRET}@host/db",
        # An unescaped slash or question mark: what follows the colon is no port then.
        f"postgresql://user@{SECRET}:pass/db",
        f"postgresql://host:{SECRET}/db",
        f"postgresql://[::1:{SECRET}",
        "postgresql:///db?host=h&port=first",
        "postgresql:///db?host=h1:first&host=h2:5432",
    ],
)
def test_what_is_no_url(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read; .* postgresql://us") as caught:
        normalise_url(given)
    assert SECRET not in shown(caught.value).replace(repr(given), "")


# --- passwords -----------------------------------------------------------------------------------


def test_no_password_in_what_is_shown() -> None:
    settings = settings_of(database_url=URL, direct_url=URL)
    dumped = (settings.model_dump_json(), str(settings.model_dump()))
    for text in (repr(settings), str(settings), *dumped):
        assert SECRET not in text
    assert SECRET not in repr(settings.require_url())
    assert settings.require_url().password == SECRET


@pytest.mark.parametrize(
    "wrong",
    [
        {"stale_after": 1},
        {"sweep_interval": 20},
        {"poll_interval": "soon"},
        {"concurrency": 0},
    ],
)
@pytest.mark.parametrize("short", [True, False])
def test_no_password_in_an_error_of_another_setting(wrong: dict[str, Any], short: bool) -> None:
    # Pydantic cuts what it shows in the middle: a short one would be seen whole.
    url = f"postgresql://u:{SECRET}@h/d" if short else URL
    with pytest.raises((ValidationError, ConfigurationError)) as caught:
        settings_of(database_url=url, **wrong)
    assert SECRET not in shown(caught.value)


def test_no_password_in_an_error_about_itself() -> None:
    with pytest.raises(ValidationError) as caught:
        settings_of(database_url=[f"postgresql://u:{SECRET}@h/d"])
    assert SECRET not in str(caught.value) + repr(caught.value)
