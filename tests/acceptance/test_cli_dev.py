"""``pgconductor dev``: a server that stays up, and goes when it is told to."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pgconductor.cli import ExitCode
from tests.acceptance.test_cli_support import environment
from tests.support.processes import Child, Children
from tests.support.servers import connect
from tests.support.waiting import eventually


async def dev(children: Children, *options: str | Path) -> tuple[Child, dict[str, Any]]:
    child = await children.start("-m", "pgconductor", "dev", *options, "--json", env=environment())
    await child.wait_for_line("}")
    return child, json.loads("\n".join(child.lines))


def installed(url: str) -> object:
    with connect(url) as connection:
        found = connection.execute("SELECT to_regclass('pgconductor.executions')::text").fetchone()
    return found[0] if found else None


@pytest.mark.parametrize("end", [Child.terminate, Child.interrupt, Child.kill])
async def test_a_temporary_server(children: Children, end: Any) -> None:
    child, told = await dev(children)
    assert told["url"].startswith("postgresql+asyncpg://")
    assert told["psql"].startswith("postgresql://")
    assert installed(told["url"]) == "pgconductor.executions"
    end(child)
    assert await child.wait() == (-9 if end is Child.kill else ExitCode.OK)
    await eventually(lambda: not Path(told["home"]).exists(), timeout=20)


def quiet_port() -> int:
    """A port that is free and, below those that the system gives to anybody, likely to stay so."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 50):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every account can reach: where root calls, the server is another's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "server"


async def test_data_that_is_kept_and_a_port(children: Children, home: Path) -> None:
    port = quiet_port()
    first, told = await dev(children, "--data-dir", home, "--port", str(port), "--no-migrate")
    assert f"127.0.0.1:{port}" in told["url"]
    assert installed(told["url"]) is None
    with connect(told["url"]) as connection:
        connection.execute("CREATE TABLE kept ()")
    second, attached = await dev(children, "--data-dir", home, "--no-migrate")
    assert attached["pid"] == told["pid"]
    assert await second.wait() == ExitCode.OK
    first.terminate()
    assert await first.wait() == ExitCode.OK
    third, again = await dev(children, "--data-dir", home)
    with connect(again["url"]) as connection:
        connection.execute("SELECT FROM kept")
    assert installed(again["url"]) == "pgconductor.executions"
    third.terminate()
    assert await third.wait() == ExitCode.OK


async def test_people_are_told_how_to_reach_it(children: Children) -> None:
    child = await children.start("-m", "pgconductor", "dev", env=environment())
    line = await child.wait_for_line("worker")
    assert "export PGCONDUCTOR_DATABASE_URL='postgresql+asyncpg://" in line
    assert any(line.startswith("psql ") for line in child.lines)
    child.interrupt()
    assert await child.wait() == ExitCode.OK
