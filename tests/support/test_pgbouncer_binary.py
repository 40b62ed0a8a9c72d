"""Where the tests find PgBouncer, and what becomes of them where they do not."""

from __future__ import annotations

import shutil

import pytest

from tests.support import pgbouncer


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pgbouncer.VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)


def test_it_is_skipped_on_a_developer_s_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no pgbouncer"):
        pgbouncer.pgbouncer_binary()


def test_it_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=pgbouncer.VARIABLE):
        pgbouncer.pgbouncer_binary()


def test_it_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv(pgbouncer.VARIABLE, "/opt/pgbouncer")
    assert pgbouncer.pgbouncer_binary() == "/opt/pgbouncer"
