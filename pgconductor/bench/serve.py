"""What runs in a contestant's process: commands come in as JSON lines, answers go out likewise.

Called as ``python -P serve.py CONTESTANT.py``. The file defines a class ``Contestant``, which the
harness drives by the names of its methods. Standard library only: other engines are measured in
environments of their own, which do not have pgconductor.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import random
import sys
import time
import traceback
from types import ModuleType
from typing import Any, TextIO

__all__ = ["Progress", "Server"]

# Between two invocations that are picked up idle: long enough to be idle, and never in step with
# somebody's poll.
_IDLE = (0.02, 0.07)
_PATIENCE = 30.0


class Progress:
    """When handlers started; safe to be told from any thread."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def note(self, *_: Any) -> None:
        """A handler has started; the clock is the same for all processes of the machine."""
        self.moments.append(time.monotonic())
        if self._waiter is not None:
            loop, event = self._waiter
            loop.call_soon_threadsafe(event.set)

    async def one_after(self, act: Any) -> float:
        """Seconds from before an act to the start of the next handler.

        Args:
            act: A function that invokes one execution.
        """
        event = asyncio.Event()
        self._waiter = asyncio.get_running_loop(), event
        started = time.monotonic()
        await act()
        async with asyncio.timeout(_PATIENCE):
            await event.wait()
        self._waiter = None
        return self.moments[-1] - started


class Server:
    """Answers commands: its own for what is measured alike for all, else the contestant's.

    Args:
        module: The contestant's module.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._progress = Progress()
        self._contestant: Any = None

    async def about(self) -> dict[str, str]:
        """The contestant's version, and how it is set."""
        version = importlib.metadata.version(self._module.DISTRIBUTION)
        return {"version": version, "settings": self._module.SETTINGS}

    async def open(self, url: str, options: dict[str, Any]) -> None:
        """Make the contestant and let it connect.

        Args:
            url: The database, as libpq writes it.
            options: What distinguishes it from others of the same file.
        """
        self._contestant = self._module.Contestant(url, self._progress.note, **options)
        await self._contestant.open()

    async def invoke_one(self, count: int) -> float:
        """Seconds for so many invocations, each awaited."""
        invoke = self._contestant.invoke
        started = time.monotonic()
        for _ in range(count):
            await invoke()
        return time.monotonic() - started

    async def bulk(self, calls: int, size: int) -> float:
        """Seconds for so many calls that invoke so many executions each."""
        invoke_many = self._contestant.invoke_many
        started = time.monotonic()
        for _ in range(calls):
            await invoke_many(size)
        return time.monotonic() - started

    async def pick_up(self, count: int) -> list[float]:
        """Seconds from before an invocation to its handler's start, at rest before each."""
        delays: list[float] = []
        for _ in range(count):
            await asyncio.sleep(random.uniform(*_IDLE))  # noqa: S311 - no secret
            delays.append(await self._progress.one_after(self._contestant.invoke))
        return delays

    async def chain(self, count: int) -> list[float]:
        """Seconds that each of so many executions takes, one after the other."""
        delays: list[float] = []
        for _ in range(count):
            started = time.monotonic()
            await self._contestant.chain()
            delays.append(time.monotonic() - started)
        return delays

    async def work_idle(self) -> None:
        """Start a worker that is to wait; contestants may have a way of their own for it."""
        await getattr(self._contestant, "work_idle", self._contestant.work)()

    async def progress(self) -> dict[str, Any]:
        """How many handlers have started, and when the first did."""
        moments = self._progress.moments
        return {"handled": len(moments), "first": moments[0] if moments else None}

    async def answer(self, line: str) -> dict[str, Any]:
        """Carry out a command.

        Args:
            line: JSON: the command's name in ``do``, its arguments in ``with``.
        """
        command = json.loads(line)
        name = command["do"]
        own = None if name not in _COMMANDS else getattr(self, name)
        act = own or getattr(self._contestant, name, None)
        if act is None:
            return {"missing": name}
        try:
            return {"value": await act(**command["with"])}
        except NotImplementedError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - told to the harness, which goes on without us
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    async def serve(self, answers: TextIO) -> None:
        """Answer until the harness closes its end.

        Args:
            answers: Where they go.
        """
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            answer = await self.answer(line)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


_COMMANDS = {"about", "open", "invoke_one", "bulk", "pick_up", "progress", "work_idle", "chain"}


def _loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("contestant", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["contestant"] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve one contestant; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module = _loaded(sys.argv[1])
    if importlib.util.find_spec("uvloop") is not None and getattr(module, "UVLOOP", False):
        import uvloop

        loop_factory = uvloop.new_event_loop
    else:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(Server(module).serve(answers))


if __name__ == "__main__":
    main()
    # Threads of a library that do not end must not keep the process.
    os._exit(0)
