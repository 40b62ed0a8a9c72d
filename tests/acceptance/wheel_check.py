"""Hold the built wheel to its promises, away from the source; run by `nox -s wheel`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import pgconductor
from pgconductor import Conductor, TaskContext
from pgconductor.dev import EmbeddedServer

USER_INI = """\
[pgconductor]
script_location = pgconductor:migrations
"""

USER_APP = """\
from pgconductor import Conductor, TaskContext

conductor = Conductor()


@conductor.task
async def greet(ctx: TaskContext, name: str) -> str:
    return f"hello {name}"
"""


class Order(BaseModel):
    id: int


class Receipt(BaseModel):
    order_id: int


def check_contents() -> None:
    package = Path(str(files(pgconductor)))
    assert package.is_relative_to(sys.prefix), f"{package} is not the installed wheel"
    for name in ("py.typed", "migrations/env.py", "migrations/script.py.mako"):
        assert (package / name).is_file(), f"the wheel lacks {name}"
    assert any((package / "migrations" / "versions").glob("0001*.py")), "the wheel lacks revisions"
    assert not (package / "migrations" / "__init__.py").exists()


def command(*arguments: str, database_url: str, cwd: Path, code: int = 0) -> str:
    # A PYTHONPATH of the caller's could lead to the source.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    executable = Path(sys.executable).parent / arguments[0]
    done = subprocess.run(
        [str(executable), *arguments[1:]],
        cwd=cwd,
        env={**kept, "PGCONDUCTOR_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(f"$ {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}", flush=True)
    assert done.returncode == code
    return done.stdout


async def create_database(server_url: str, name: str) -> str:
    url = make_url(server_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f'CREATE DATABASE "{name}"'))
    await engine.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


async def check_execution(database_url: str) -> None:
    conductor = Conductor(database_url=database_url)

    @conductor.task()
    async def checkout(ctx: TaskContext, order: Order) -> Receipt:
        return Receipt(order_id=order.id)

    handle = await checkout.invoke(Order(id=7))
    await conductor.orchestrator().drain()
    receipt = await handle.result(timeout=timedelta(seconds=10))
    assert receipt == Receipt(order_id=7), receipt


def check_command_line(database_url: str, project: Path) -> None:
    """From an empty database to an executed task, by commands alone."""

    def pgconductor_(*arguments: str, code: int = 0) -> str:
        return command("pgconductor", *arguments, database_url=database_url, cwd=project, code=code)

    assert pgconductor.__version__ in pgconductor_("--version")
    behind = json.loads(pgconductor_("current", "--json", code=11))
    assert behind["installed"] is None
    pgconductor_("migrate")
    current = json.loads(pgconductor_("current", "--json"))
    assert current["installed"] == current["known"]
    (project / "app.py").write_text(USER_APP, encoding="utf-8")
    invoked = pgconductor_("invoke", "greet", "--payload", '"you"', "--app", "app:conductor")
    pgconductor_("worker", "app:conductor", "--drain")
    found = json.loads(pgconductor_("show", invoked.strip(), "--json"))
    assert (found["state"], found["result"]) == ("completed", "hello you"), found


def check_demo(project: Path) -> None:
    """The demo on a few files, with an embedded server of its own."""
    texts = project / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text("one two three\n" * number, encoding="utf-8")
    told = json.loads(
        command("pgconductor", "demo", str(texts), "--json", database_url="", cwd=project)
    )
    assert told["ok"], told
    assert told["totals"]["words"]["measured"] == 3 * sum(range(20)), told


def main() -> None:
    check_contents()
    with TemporaryDirectory() as folder, EmbeddedServer.start() as server:
        project = Path(folder)
        (project / "alembic.ini").write_text(USER_INI, encoding="utf-8")

        by_command = asyncio.run(create_database(server.url, "by_command"))
        check_command_line(by_command, project)
        asyncio.run(check_execution(by_command))

        by_alembic = asyncio.run(create_database(server.url, "by_alembic"))
        alembic = ("alembic", "-n", "pgconductor")
        command(*alembic, "upgrade", "head", database_url=by_alembic, cwd=project)
        assert "(head)" in command(*alembic, "current", database_url=by_alembic, cwd=project)
        asyncio.run(check_execution(by_alembic))
        check_demo(project)
    print(f"the wheel of pgconductor {pgconductor.__version__} keeps its promises")


if __name__ == "__main__":
    main()
