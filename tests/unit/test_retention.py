"""How long executions are kept: what options and settings may say."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pgconductor import Conductor, Settings, TaskContext
from pgconductor.domain.retention import Retention
from pgconductor.exceptions import InvalidInput

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("PGCONDUCTOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


async def handler(ctx: TaskContext) -> None: ...


def declared(conductor: Conductor, **options: Any) -> Retention:
    return conductor.task("greet", **options)(handler).options.retention


def test_without_a_word_the_settings_hold() -> None:
    assert declared(Conductor(Settings())) == Retention(7 * DAY, 30 * DAY)
    settings = Settings(retain_completed=DAY, retain_failed="forever")
    assert declared(Conductor(settings)) == Retention(DAY, None)


def test_a_task_may_say_otherwise() -> None:
    def conductor() -> Conductor:
        return Conductor(Settings(retain_completed="forever", retain_failed=DAY))

    assert declared(conductor(), retain_completed=2 * DAY) == Retention(2 * DAY, DAY)
    assert declared(conductor(), retain_failed="forever") == Retention(None, None)
    assert declared(conductor(), retain_failed=3 * DAY) == Retention(None, 3 * DAY)


@pytest.mark.parametrize("name", ["retain_completed", "retain_failed"])
@pytest.mark.parametrize("bad", [timedelta(0), -DAY, 5_000 * DAY, 7, "7", "for ever", True])
def test_nonsense_is_refused(name: str, bad: Any) -> None:
    with pytest.raises(InvalidInput, match=name):
        declared(Conductor(Settings()), **{name: bad})


@pytest.mark.parametrize("name", ["retain_completed", "retain_failed"])
def test_the_environment_knows_the_word(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"PGCONDUCTOR_{name.upper()}", "forever")
    assert getattr(Settings(), name) == "forever"
    monkeypatch.setenv(f"PGCONDUCTOR_{name.upper()}", "P2D")
    assert getattr(Settings(), name) == 2 * DAY
    monkeypatch.setenv(f"PGCONDUCTOR_{name.upper()}", "for ever")
    with pytest.raises(ValidationError, match="or 'forever'") as refused:
        Settings()
    (error,) = refused.value.errors()
    assert error["loc"] == (name,)
