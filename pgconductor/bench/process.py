"""A contestant's process, as the harness sees it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from pgconductor.bench.contestants import Contestant
from pgconductor.bench.cpu import seconds_of_tree

__all__ = ["ContestantProcess", "NotMeasured"]

_LIMIT = 240.0
_GOODBYE = 10.0


class NotMeasured(Exception):
    """A contestant cannot give a figure; the message says why."""


class ContestantProcess:
    """Asks one question at a time. Use it by ``async with``.

    Args:
        contestant: Whose process it is.
    """

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None
        self._opened = False

    async def __aenter__(self) -> Self:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __aexit__
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._contestant.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, **self._contestant.environment},
                limit=2**24,
            )
        except OSError as error:
            self._said.close()
            raise NotMeasured(f"its process does not start: {error}") from error
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None or self._said is None:
            return
        try:
            if exc is None and self._opened:
                # The figure is there already; what does not end by itself is ended below.
                with suppress(NotMeasured, TimeoutError):
                    async with asyncio.timeout(_GOODBYE):
                        await self.ask("close")
        finally:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            self._said.close()

    async def ask(self, command: str, **given: Any) -> Any:
        """Have the contestant do something, and return what it answers.

        Args:
            command: A method of the contestant, or one that is alike for all.
            given: Its arguments.

        Raises:
            NotMeasured: It has no such method, it failed, or it took too long.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("not entered")
        try:
            async with asyncio.timeout(_LIMIT):
                process.stdin.write(json.dumps({"do": command, "with": given}).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            raise NotMeasured(f"{command} took more than {_LIMIT:.0f} s") from None
        except ConnectionError:
            line = b""
        if not line:
            raise NotMeasured(f"its process has ended: {self._last_words()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise NotMeasured("it has none")
        if "error" in answer:
            raise NotMeasured(answer["error"])
        self._opened = self._opened or command == "open"
        return answer.get("value")

    def cpu_seconds(self) -> float | None:
        """Processor time so far; None where it cannot be told."""
        return None if self._process is None else seconds_of_tree(self._process.pid)

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
