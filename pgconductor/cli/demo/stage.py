"""The demo's worker processes: real ones, which do not outlive the demo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import pgconductor
from pgconductor.cli.demo.app import LIFELINE

__all__ = ["Stage", "WorkerProcess"]

# Short, so that a recovery takes seconds; the defaults are ten times longer.
_SETTINGS: Final = {
    "HEARTBEAT_INTERVAL": "0.5",
    "SELF_FENCE_AFTER": "2",
    "STALE_AFTER": "3",
    "SWEEP_INTERVAL": "0.5",
    "POLL_INTERVAL": "0.5",
    "SHUTDOWN_GRACE": "5",
}
_CONCURRENCY: Final = 8
_STOP_SECONDS: Final = 12.0


class WorkerProcess:
    """One ``pgconductor worker``.

    Args:
        number: 1 for the first.
        process: The process.
        on_record: Called with each record that it logs.
    """

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        on_record: Callable[[WorkerProcess, dict[str, Any]], None],
    ) -> None:
        self.number = number
        self.killed = False
        self.registered = False
        self.last_lines: deque[str] = deque(maxlen=20)
        self._process = process
        self._on_record = on_record
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it lives."""
        return self._process.returncode

    def kill(self) -> None:
        """``kill -9``: it can give nothing back, and say nothing."""
        self.killed = True
        self._signal(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to stop, wait until it has; returns its exit code.

        One that has not got as far as to register knows nothing of signals, and has nothing to
        give back: its end counts as clean.
        """
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            code = await self._process.wait()
        await self._reader
        return 0 if code == -signal.SIGTERM and not self.registered else code

    async def reap(self) -> None:
        """Kill it if it lives, and wait for its end."""
        self._signal(signal.SIGKILL)
        await self._process.wait()
        await self._reader

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read(self) -> None:
        stream = self._process.stderr
        while stream is not None and (line := await stream.readline()):
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            try:
                record = json.loads(text)
            except ValueError:
                continue
            if isinstance(record, dict):
                self._on_record(self, cast("dict[str, Any]", record))


class Stage:
    """Starts worker processes and leaves none behind, whatever ends the demo.

    Args:
        database_url: Where they work.
        queue: What they serve.
        on_record: Called with each record that one logs.
    """

    def __init__(
        self,
        database_url: str,
        queue: str,
        on_record: Callable[[WorkerProcess, dict[str, Any]], None],
    ) -> None:
        self._environment = _environment(database_url)
        self._queue = queue
        self._on_record = on_record
        self.workers: list[WorkerProcess] = []
        # Its end for writing is ours alone: the workers notice when it closes, however we end.
        self._lifeline, self._ours = os.pipe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await asyncio.gather(*(worker.reap() for worker in self.workers))
        finally:
            os.close(self._ours)
            os.close(self._lifeline)

    @property
    def living(self) -> list[WorkerProcess]:
        """Those that have not ended."""
        return [worker for worker in self.workers if worker.code is None and not worker.killed]

    async def start_worker(self) -> WorkerProcess:
        """Start one more, just as a user would."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pgconductor", "worker"),
            "pgconductor.cli.demo.app:conductor",
            *("--queue", self._queue, "--concurrency", str(_CONCURRENCY), "--log-json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**self._environment, LIFELINE: str(self._lifeline)},
            # Not where a .env or a module of the user's could be found.
            cwd="/",
            pass_fds=(self._lifeline,),
            # A terminal's Ctrl-C is for the demo, which then stops them.
            start_new_session=True,
        )
        worker = WorkerProcess(len(self.workers) + 1, process, self._on_record)
        self.workers.append(worker)
        return worker

    async def stop(self) -> list[int]:
        """Stop those that live; returns their exit codes."""
        return await asyncio.gather(*(worker.stop() for worker in self.living))

    @property
    def slots(self) -> int:
        """How many files a worker counts at once."""
        return _CONCURRENCY


def _environment(database_url: str) -> dict[str, str]:
    """The user's environment with the demo's settings and no others of ours."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("PGCONDUCTOR_")
    }
    kept.pop("DATABASE_URL", None)
    root = Path(pgconductor.__file__).resolve().parent.parent
    paths = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **kept,
        **{f"PGCONDUCTOR_{name}": value for name, value in _SETTINGS.items()},
        "PGCONDUCTOR_DATABASE_URL": database_url,
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in paths),
    }
