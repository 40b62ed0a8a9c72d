"""``worker --processes``: a supervisor, and the worker processes that it keeps alive."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import click

from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.supervision import Restarts, Verdict, judge, meaning, said, worst
from pgconductor.runtime.signals import HURRY, STOP, handled

if TYPE_CHECKING:
    from asyncio.subprocess import Process

__all__ = ["READY", "Supervisor", "interpreter", "process_count"]

logger = logging.getLogger("pgconductor.supervisor")

MOST: Final = 256
#: What a process says once it works.
READY: Final = b"r"


def process_count(value: str) -> int:
    """A type of option: how many processes, or ``auto`` for one a CPU."""
    if value == "auto":
        return min(_cpus(), MOST)
    try:
        count = int(value)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST:
        raise click.BadParameter(f"{value!r} is neither a number from 1 to {MOST} nor 'auto'")
    return count


def _cpus() -> int:
    """How many CPUs this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def interpreter() -> list[str]:
    """The command that starts this Python with the flags that it was itself started with."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # pyright: ignore  # no public name
    return [sys.executable, *flags]


class _Link:
    """A process at work, and the socket by which it is told to stop.

    Not by signals: Ctrl-C reaches the whole foreground group, and service managers signal every
    process of a service, so that one wish to stop would be counted twice.
    """

    def __init__(self, process: Process, ours: socket.socket) -> None:
        self.process = process
        self.started_at = time.monotonic()
        self.ready = False
        self._socket = ours

    def tell(self, level: int) -> None:
        """Ask it to stop (1), or to hurry (2); again makes no difference."""
        # An error means that it has ended, which is noticed elsewhere.
        with suppress(BrokenPipeError, ConnectionResetError, ProcessLookupError):
            self._socket.send(STOP if level == 1 else HURRY)
            if not self.ready:
                # It may be importing the application, where nobody reads the socket yet.
                self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):  # It has ended meanwhile.
            self.process.kill()

    async def hear(self) -> None:
        """Return when it has started to work; never, if it does not."""
        try:
            heard = await asyncio.get_running_loop().sock_recv(self._socket, 1)
        except ConnectionResetError:
            heard = b""
        if heard != READY:
            await asyncio.Event().wait()
        self.ready = True


class Supervisor:
    """Starts worker processes, each an orchestrator of its own, and starts the fallen again.

    The first process is started alone: a mistake in the command line or the application is
    reported once, and ends the supervisor as it would end a single worker.

    Args:
        command: Starts a worker process, but for what tells it that it is supervised.
        count: How many.
        draining: Each ends when nothing is left that is due.
    """

    def __init__(self, command: Sequence[str], count: int, *, draining: bool) -> None:
        self._command = tuple(command)
        self._count = count
        self._draining = draining
        self._links: dict[int, _Link] = {}
        self._level = 0
        self._stopping = asyncio.Event()
        self._proven = asyncio.Event()
        self._settled = asyncio.Event()
        self._given_up: ExitCode | None = None
        self._codes: list[int] = []

    async def run(self) -> ExitCode:
        """Supervise until all have ended.

        Returns:
            The worst of their exit codes, or the one over which it gave up.
        """
        logger.info("supervising %d processes", self._count)
        with self._signals():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(1))
                await self._settled.wait()
                for number in range(2, self._count + 1):
                    group.create_task(self._keep(number))
        code = worst(self._codes) if self._given_up is None else self._given_up
        level = logging.INFO if code is ExitCode.OK else logging.ERROR
        logger.log(level, "all processes have ended (exit code %d)", code)
        return code

    async def _keep(self, number: int) -> None:
        """Keep one process alive until it is not needed any more."""
        restarts = Restarts()
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(number)
            verdict = judge(
                code,
                stopping=self._stopping.is_set(),
                draining=self._draining,
                proven=self._proven.is_set(),
            )
            if self._stopping.is_set() or self._draining:
                self._codes.append(code)
            if meaning(code) is ExitCode.OK:
                self._prove()
            if verdict is Verdict.DONE:
                logger.info("process %d %s", number, said(code))
                return
            if verdict is Verdict.GIVE_UP:
                self._give_up(number, code)
                return
            pause = restarts.pause(time.monotonic() - began)
            logger.error("process %d %s; started again in %.1f s", number, said(code), pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _live(self, number: int) -> int:
        """One life of a process; its exit code."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--supervised",
                    f"{theirs.fileno()}:{number}",
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            logger.info("process %d has pid %d", number, process.pid)
            link = self._links[number] = _Link(process, ours)
            if self._level:
                link.tell(self._level)
            hearing = asyncio.create_task(self._hear(link))
            try:
                code = await process.wait()
            finally:
                del self._links[number]
                hearing.cancel()
                await asyncio.wait([hearing])
        if not link.ready and self._stopping.is_set() and code == -signal.SIGTERM:
            return ExitCode.OK  # Our own signal, before it had begun.
        return code

    async def _hear(self, link: _Link) -> None:
        await link.hear()
        self._prove()

    def _prove(self) -> None:
        self._proven.set()
        self._settled.set()

    def _give_up(self, number: int, code: int) -> None:
        logger.error("process %d %s; stopping the others", number, said(code))
        if self._given_up is None:
            self._given_up = meaning(code)
        self._ask(1)

    def _ask(self, level: int) -> None:
        """Ask all to stop (1), to hurry (2), or kill them (3)."""
        self._level = max(self._level, level)
        self._stopping.set()
        self._settled.set()
        for link in self._links.values():
            if self._level >= 3:
                link.kill()
            else:
                link.tell(self._level)

    def _on_signal(self) -> None:
        if self._level >= 3:
            os._exit(ExitCode.ERROR)
        self._ask(self._level + 1)
        did = {1: "stopping", 2: "hurrying", 3: "killing"}[self._level]
        logger.log(logging.INFO if self._level == 1 else logging.WARNING, "%s all processes", did)

    @contextmanager
    def _signals(self) -> Generator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(handled(self._on_signal))
            except NotImplementedError:
                raise CommandFailed("--processes needs a POSIX system") from None
            yield
