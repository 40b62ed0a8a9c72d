"""Steps inside an attempt: executed once, remembered, and returned from then on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Protocol, get_type_hints
from uuid import UUID
from weakref import WeakKeyDictionary

from pgconductor.domain.claims import Fetched
from pgconductor.domain.limits import check_step_key
from pgconductor.domain.steps import StepRecord
from pgconductor.exceptions import (
    ConfigurationError,
    DuplicateStep,
    InvalidPayload,
    ResultEncodeError,
)
from pgconductor.runtime.handler import Codec

__all__ = ["Remembers", "Steps"]


class Remembers(Protocol):
    """Where steps are recorded and read: the journal, or something of a test's."""

    async def record(self, step: StepRecord) -> str | None:
        """Record a step; what is on record comes back."""
        ...

    async def load(self, execution_id: UUID) -> Mapping[str, str | None]:
        """The recorded results of an execution."""
        ...

    async def transact(self, work: Callable[[Any], Awaitable[StepRecord]]) -> str | None:
        """Execute work in a session of the application's, and record it in the same commit."""
        ...


class Steps:
    """The steps of one attempt.

    Args:
        fetched: The execution.
        memory: Where steps are recorded.
        loop: The loop that the attempt belongs to.
        threads: Where plain functions are called.
        max_bytes: Largest result of a step, as JSON.
    """

    def __init__(
        self,
        fetched: Fetched,
        memory: Remembers,
        *,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        max_bytes: int,
    ) -> None:
        self._fetched = fetched
        self._memory = memory
        self._threads = threads
        self._max_bytes = max_bytes
        self._keys: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._recorded: asyncio.Future[Mapping[str, str | None]] | None = None
        self._loop = loop

    def numbered(self, key: str) -> str:
        """The key with a number that counts up within the attempt: ``page#1``, ``page#2``."""
        check_step_key(key)
        self._numbers[key] = number = self._numbers.get(key, 0) + 1
        return f"{key}#{number}"

    def claim(self, key: str) -> str:
        """Take a key for a step of this attempt.

        Raises:
            InvalidName: It cannot name a step.
            DuplicateStep: Another step of this attempt has it.
        """
        if check_step_key(key) in self._keys:
            raise DuplicateStep(self._fetched.id, key)
        self._keys.add(key)
        return key

    async def recorded(self) -> Mapping[str, str | None]:
        """What is on record of the attempts before; read once."""
        if self._recorded is None:
            # A task of its own: of several branches, one may be cancelled while all wait.
            self._recorded = asyncio.ensure_future(self._memory.load(self._fetched.id))
        return await asyncio.shield(self._recorded)

    async def take(
        self, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Execute a step, or return what it is remembered by."""
        self.claim(key)
        codec = _codec(function)
        recorded = await self.recorded()
        if key in recorded:
            return codec.decode(recorded[key])
        if inspect.iscoroutinefunction(_function(function)):
            result = await function(*args, **kwargs)
        else:
            call = partial(copy_context().run, function, *args, **kwargs)
            result = await self._loop.run_in_executor(self._threads, call)
            if inspect.isawaitable(result):
                result = await result
        return codec.decode(await self._memory.record(self.record(key, codec, result)))

    def take_here(
        self, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The same, called from a plain handler's thread; the function is called in it."""
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError("step_here is for plain handlers; await step() instead")
        self.claim(key)
        codec = _codec(function)
        recorded = asyncio.run_coroutine_threadsafe(self.recorded(), self._loop).result()
        if key in recorded:
            return codec.decode(recorded[key])
        record = self.record(key, codec, function(*args, **kwargs))
        written = asyncio.run_coroutine_threadsafe(self._memory.record(record), self._loop)
        return codec.decode(written.result())

    async def transact(
        self, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Execute a transactional step, or return what it is remembered by."""
        self.claim(key)
        codec = _codec(function)
        recorded = await self.recorded()
        if key in recorded:
            return codec.decode(recorded[key])

        async def work(session: Any) -> StepRecord:
            return self.record(key, codec, await function(session, *args, **kwargs))

        return codec.decode(await self._memory.transact(work))

    def record(self, key: str, codec: Codec, result: object) -> StepRecord:
        """What to record of a step.

        Raises:
            ResultEncodeError: Its result cannot be stored.
        """
        try:
            text = codec.encode(result, max_bytes=self._max_bytes, field="result")
        except InvalidPayload as error:
            raise ResultEncodeError(
                f"the effects of step {key!r} have happened, its result cannot be stored: {error}"
            ) from error
        return StepRecord(self._fetched.id, self._fetched.claim, key, text)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is called in the end, without what was bound to it."""
    while isinstance(function, partial):
        function = function.func
    return function


def _codec(function: Callable[..., Any]) -> Codec:
    bare = _function(function)
    return _codec_of(getattr(bare, "__func__", bare))


#: By function, for as long as it lives: making one costs more than a step.
_CODECS: Final[WeakKeyDictionary[Callable[..., Any], Codec]] = WeakKeyDictionary()


def _codec_of(function: Callable[..., Any]) -> Codec:
    """The codec of what a function returns, by its hint; without one, plain JSON."""
    try:
        found = _CODECS.get(function)
        if found is None:
            _CODECS[function] = found = _made(function)
    except TypeError:
        return _made(function)  # A callable object that cannot be a key.
    return found


def _made(function: Callable[..., Any]) -> Codec:
    name = getattr(function, "__qualname__", repr(function))
    try:
        hint = get_type_hints(function, include_extras=True).get("return", Any)
    except NameError as error:
        raise ConfigurationError(
            f"step {name}: a type hint cannot be resolved ({error}); the type of a step's result "
            "must be importable where the function is defined"
        ) from error
    except TypeError:
        hint = Any  # Something without annotations, as many built-in functions are.
    return Codec.of(hint, f"step {name}, result")
