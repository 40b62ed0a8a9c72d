"""Hold the built wheel to its promises, away from the source; run by `nox -s wheel`."""

from __future__ import annotations

import asyncio
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


def command(*arguments: str, database_url: str, cwd: Path) -> str:
    executable = Path(sys.executable).parent / arguments[0]
    done = subprocess.run(
        [str(executable), *arguments[1:]],
        cwd=cwd,
        env={**os.environ, "PGCONDUCTOR_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(f"$ {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}", flush=True)
    assert done.returncode == 0
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


def main() -> None:
    check_contents()
    with TemporaryDirectory() as folder, EmbeddedServer.start() as server:
        project = Path(folder)
        (project / "alembic.ini").write_text(USER_INI, encoding="utf-8")

        by_command = asyncio.run(create_database(server.url, "by_command"))
        command("pgconductor", "migrate", database_url=by_command, cwd=project)
        asyncio.run(check_execution(by_command))

        by_alembic = asyncio.run(create_database(server.url, "by_alembic"))
        alembic = ("alembic", "-n", "pgconductor")
        command(*alembic, "upgrade", "head", database_url=by_alembic, cwd=project)
        assert "(head)" in command(*alembic, "current", database_url=by_alembic, cwd=project)
        asyncio.run(check_execution(by_alembic))
    print(f"the wheel of pgconductor {pgconductor.__version__} keeps its promises")


if __name__ == "__main__":
    main()
