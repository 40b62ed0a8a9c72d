"""Child Python processes that a test talks to by lines, and does violence to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
#: For processes whose lines need not be counted: it takes them longer to start, and to end.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}


class Child:
    """A child process. Its output is read all the time, so that it never blocks on us."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._read = 0
        self._changed = asyncio.Condition()
        self._ended = False
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._collect(process.stdout, self.lines)),
            asyncio.create_task(self._collect(process.stderr, self.errors)),
        ]
        self._end = asyncio.create_task(self._notice_end())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait_for_line(self, prefix: str, timeout: float = 30.0) -> str:
        """The next line that begins so; the lines before it are passed over (see ``lines``)."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                while True:
                    for index in range(self._read, len(self.lines)):
                        if self.lines[index].startswith(prefix):
                            self._read = index + 1
                            return self.lines[index]
                    if self._ended:
                        break
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(self._report(f"no line {prefix!r} in {timeout} s")) from None
        raise AssertionError(self._report(f"it ended without a line {prefix!r}"))

    async def send_line(self, line: str) -> None:
        """Write a line to the child's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def sigstop(self) -> None:
        """Freeze the child; returns when it is frozen."""
        self._signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        deadline = time.monotonic() + 10
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "Tt":
            assert time.monotonic() < deadline, self._report("it would not freeze")
            time.sleep(0.001)

    def sigcont(self) -> None:
        self._signal(signal.SIGCONT)

    async def wait(self, timeout: float = 30.0) -> int:
        """The exit code, negative for a signal, once all its output has been read."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._end)
        except TimeoutError:
            raise AssertionError(self._report(f"it has not ended in {timeout} s")) from None
        assert self._process.returncode is not None
        return self._process.returncode

    async def close(self) -> None:
        """Kill the child with all of its process group, and reap it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._end

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _collect(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            async with self._changed:
                lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()

    async def _notice_end(self) -> None:
        await self._process.wait()
        await asyncio.gather(*self._readers)
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _report(self, problem: str) -> str:
        return "\n".join(
            [
                f"Child {self.pid} (exit code {self.returncode}): {problem}",
                "--- stdout",
                *self.lines[-50:],
                "--- stderr",
                *self.errors[-50:],
            ]
        )


class Children:
    """Starts child processes and leaves none behind."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    async def start(
        self,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        cwd: Path = ROOT,
    ) -> Child:
        """Start this Python with arguments: a script's path, ``-m module``, or ``-c code``."""
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = await asyncio.create_subprocess_exec(
            python,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**24,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
        child = Child(process)
        self._children.append(child)
        return child

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(child.close() for child in self._children))
