"""An application whose handlers have child processes; a process of ``test_forked_children.py``."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from pgconductor import Conductor, TaskContext

conductor = Conductor()
# Whoever starts a process looks for all that have ended, also those of other threads: these then
# read no exit code, or 255.
alone = threading.Lock()
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def _waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _terminated(method: str, times: int) -> list[int | None]:
    """How child processes end that are terminated as soon as they are there."""
    context: Any = multiprocessing.get_context(method)
    children = []
    for _ in range(times):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        children.append(child)
    for child in children:
        child.join(20)
    return [child.exitcode for child in children]


def by_process() -> Any:
    with alone:
        return _terminated("fork", 20)


def by_fork_server() -> Any:
    with alone:
        return _terminated("forkserver", 3)


def by_pool() -> Any:
    # The workers of a pool end by SIGTERM.
    with alone:
        found = []
        for _ in range(3):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                found.append(pool.map(abs, [-1, -2, -3]))
        return found


def by_subprocess() -> Any:
    codes = []
    several: list[dict[str, Any]] = [
        {},
        {"preexec_fn": lambda: None},
        {"start_new_session": True},
    ]
    for options in several:
        child = subprocess.Popen(SLEEP, **options)
        child.terminate()
        codes.append(child.wait())
    return codes


def by_os_fork() -> Any:
    codes = []
    for one in (signal.SIGTERM, signal.SIGKILL):
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        os.kill(pid, one)
        codes.append(_waited(pid))
    return codes


def by_signals_of_child() -> Any:
    """What the child has: the handlers of before, nothing blocked, no socket of the parent's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = {
            "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "int": signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.default_int_handler),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "woken": signal.set_wakeup_fd(-1),
        }
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    _waited(pid)
    with os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        return json.load(pipe)


def by_leaving_the_handler() -> Any:
    """Children that forget to end, or end as a program does; not one goes on as a worker."""
    codes = []
    for how in ("return", "exit", "raise"):
        pid = os.fork()
        if pid == 0:
            if how == "return":
                return "the child's"
            if how == "exit":
                sys.exit(7)
            raise ValueError(how)
        codes.append(_waited(pid))
    return codes


def by_using_connections() -> Any:
    """A child collects what is garbage, and uses the conductor: on connections of its own."""
    pid = os.fork()
    if pid == 0:
        gc.collect()

        async def use() -> None:
            await work.invoke("from a child")
            await conductor.executions.count()
            async with conductor.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            await conductor.close()

        asyncio.run(use())
        gc.collect()
        os._exit(0)
    return _waited(pid)


WAYS: dict[str, Callable[[], Any]] = {
    name: way for name, way in list(globals().items()) if name.startswith("by_")
}


@conductor.task(max_attempts=1)
def plain(ctx: TaskContext, way: str) -> Any:
    return WAYS[way]()


@conductor.task(max_attempts=1)
async def on_the_loop(ctx: TaskContext, way: str) -> Any:
    if way != "by_asyncio":
        return WAYS[way]()
    child = await asyncio.create_subprocess_exec(*SLEEP)
    child.terminate()
    return await child.wait()


@conductor.task(queue="elsewhere")
async def work(ctx: TaskContext, number: Any) -> None:
    """Only invoked."""


@conductor.task(max_attempts=1)
async def with_connections(ctx: TaskContext, way: str) -> Any:
    """The same connections serve before and after a plain function forks in a thread."""

    async def servers() -> set[int]:
        pid = text("SELECT pg_backend_pid()")
        async with conductor.engine.connect() as one, conductor.engine.connect() as other:
            return {await each.scalar(pid) for each in (one, other)}

    await work.invoke(1)
    before = await servers()
    result = await asyncio.to_thread(WAYS[way])
    await asyncio.wait_for(work.invoke(2), 10)
    return [result, await asyncio.wait_for(servers(), 10) == before]


@conductor.task
async def loop(ctx: TaskContext) -> str:
    return type(asyncio.get_running_loop()).__module__
