"""Steps, as a handler's context offers them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, overload

from pgconductor.domain.limits import check_step_key
from pgconductor.domain.retry import RetryPolicy
from pgconductor.exceptions import ConfigurationError
from pgconductor.runtime.blocks import Transaction
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.context import AttemptContext, Tools
from pgconductor.runtime.steps import StepOptions

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["StepContext", "Stepper"]

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN: Final = StepOptions()


# Not Coroutine[Any, Any, R]: of two of these with different results, mypy makes Any in gather().


class _StepDecorator(Protocol):
    """Makes a step of a function; calling it takes the step."""

    @overload
    def __call__(
        self, function: Callable[P, Awaitable[R]], /
    ) -> Callable[P, Coroutine[None, None, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[None, None, R]]: ...


class Stepper:
    """Takes steps with options; made by ``ctx.options()``.

    Args:
        tools: Makes what it takes; a boundary.
        options: How patient a step is.
    """

    __slots__ = ("_options", "_tools")

    def __init__(self, tools: Callable[[], Tools], options: StepOptions) -> None:
        self._tools = tools
        self._options = options

    @overload
    def step(
        self, key: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, R]: ...
    @overload
    def step(
        self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, R]: ...
    @overload
    def step(self, key: str, /) -> _StepDecorator: ...

    def step(
        self, key: str, function: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any
    ) -> Any:
        """The same as ``ctx.step``, with the options.

        Args:
            key: See there.
            function: –
            args: –
            kwargs: –

        Raises:
            StepFailed: It has failed for good.
            StepTimeout: A call took longer than it may, and there is no other.
        """
        if function is not None:
            return self._take(key, function, *args, **kwargs)
        check_step_key(key)

        def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
            @functools.wraps(function)
            def take(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                return self._take(key, function, *args, **kwargs)

            return take

        return decorate

    async def _take(
        self, key: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        return await self._tools().steps.take(key, function, args, kwargs, self._options)


class StepContext(AttemptContext):
    """The part of a handler's context that takes steps."""

    __slots__ = ()

    @overload
    def step(
        self, key: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, R]: ...
    @overload
    def step(
        self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, R]: ...
    @overload
    def step(self, key: str, /) -> _StepDecorator: ...

    def step(
        self, key: str, function: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a function once, and remember what it returns: a later attempt gets that back.

        The result is recorded before it is returned, and is what the record holds: after a crash
        between the two, the function is called again. So let its effects elsewhere be repeatable,
        for instance by ``ctx.execution_id`` and the key as an idempotency key. If it raises,
        nothing is recorded; see :meth:`options` for more patience. Steps of concurrent branches may
        be taken in any order.

        It is a boundary as well: if the process is to stop, the attempt ends before the step.

        Without a function it is a decorator: ``@ctx.step("charge")`` above a function makes calls
        of it take the step.

        Args:
            key: Its name, one of a kind within an attempt; see :meth:`numbered`.
            function: Async, or plain: then it is called in a thread. Its return hint is the type of
                the result, which must be storable as JSON.
            args: What to call it with.
            kwargs: Likewise.

        Returns:
            What it returned, now or in an earlier attempt.

        Raises:
            InvalidName: The key is empty, too long, or holds control characters.
            DuplicateStep: The key was taken already in this attempt.
            ReplayMismatch: Something else is on record: the handler was changed.
            ConfigurationError: Values of its return hint would not come back; it was not called.
            ResultEncodeError: The result cannot be stored, or would not come back as it is.
            OwnershipLost: The execution is held by somebody else by now; nothing was recorded.
        """
        if function is None:
            return Stepper(self._durable, _PLAIN).step(key)
        return self._take(key, function, *args, **kwargs)

    async def _take(
        self, key: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        return await self._durable().steps.take(key, function, args, kwargs)

    def options(
        self,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
    ) -> Stepper:
        """More patience with a step: ``await ctx.options(max_attempts=5).step("charge", ...)``.

        A call that fails is on record, and so is the time of the next: they are counted across
        attempts, and while a step waits for its next call nothing is held. An error that the policy
        does not retry ends it at once.

        Args:
            max_attempts: How often the function is called before the step has failed for good:
                that is on record then, and each attempt gets ``StepFailed``. None: the first error
                is the handler's as it is, and is not on record.
            retry: When it is called again, where ``max_attempts`` says how often; the default is
                after a second, growing to ten minutes.
            timeout: How long a call may take. A plain function is not ended by it: it goes on in
                its thread, and what it returns is dropped.

        Raises:
            InvalidInput: Something is out of its range.
        """
        if retry is None:
            return Stepper(self._durable, StepOptions(max_attempts, timeout=timeout))
        return Stepper(self._durable, StepOptions(max_attempts, retry, timeout))

    async def transact(
        self,
        key: str,
        function: Callable[Concatenate[AsyncSession, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """A step in a transaction of the application's own database: exactly once.

        The function gets a session of the conductor's sessionmaker. What it writes, the record of
        the step and the proof that this process still holds the execution commit together, or not
        at all. A later attempt gets the result back and writes nothing again. After a serialization
        failure or a deadlock the function is called again, in another session: let it do nothing
        but write to it.

        Args:
            key: See :meth:`step`.
            function: Async; it must neither commit nor roll back, nor keep what it was given.
            args: What to call it with after the session.
            kwargs: Likewise.

        Returns:
            What it returned, now or in an earlier attempt.

        Raises:
            DuplicateStep: The key was taken already in this attempt.
            ReplayMismatch: Something else is on record: the handler was changed.
            ResultEncodeError: The result cannot be stored, or not be read back; all is rolled back.
            OwnershipLost: The execution is held by somebody else by now; everything is rolled back.
        """
        result: R = await self._durable().steps.transact(key, function, args, kwargs)
        return result

    @overload
    def transaction(self, key: str) -> Transaction[Any]: ...
    @overload
    def transaction(self, key: str, result: type[R]) -> Transaction[R]: ...
    @overload
    def transaction(self, key: str, result: Any) -> Transaction[Any]: ...

    def transaction(self, key: str, result: Any = Any) -> Transaction[Any]:
        """The same as :meth:`transact`, as a block: ``async with ctx.transaction(key) as session``.

        In a later attempt the block ends at its first use of the session. A value that it is to
        return is assigned to ``result`` of what this method returns. A conflict with another
        transaction ends the attempt, which is tried again.

        Args:
            key: See :meth:`step`.
            result: The type of the value; plain JSON by default.

        Raises:
            InvalidName: The key cannot name a step.
            TransactionConflict: A serialization failure or a deadlock, at the end of the block.
            OwnershipLost: The execution is held by somebody else by now; everything is rolled back.
        """
        tools = self._durable()
        check_step_key(key)
        codec = Codec.of(result, f"transaction {key!r}, result")
        return Transaction(key, codec, tools.record, tools.waits, tools.steps)

    async def complete_in(self, session: Any, result: Any = None) -> None:
        """Complete the execution in a transaction of the handler's own: both commit, or neither.

        Call it last, commit, and return; whatever the handler returns then is not looked at. If the
        transaction does not commit, the attempt has failed.

        Args:
            session: An ``AsyncSession`` or ``AsyncConnection`` to the same database.
            result: What the execution returns.

        Raises:
            ResultEncodeError: The result cannot be stored.
            OwnershipLost: The execution is held by somebody else by now: roll back.
        """
        await self._durable().durable.complete_in(session, result)

    def step_here(
        self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The same as :meth:`step`, for plain handlers: the function is called in their thread.

        Args:
            key: See :meth:`step`.
            function: A plain function.
            args: What to call it with.
            kwargs: Likewise.

        Raises:
            ConfigurationError: An async handler calls it, which would wait for itself.
        """
        result: R = self._durable().steps.take_here(key, function, args, kwargs)
        return result

    def here(self, awaitable: Coroutine[Any, Any, R]) -> R:
        """What an async method returns, for plain handlers: ``ctx.here(ctx.sleep("a", day))``.

        Args:
            awaitable: What the method gave.

        Raises:
            ConfigurationError: An async handler calls it, which would wait for itself.
        """
        if asyncio._get_running_loop() is not None:
            awaitable.close()
            raise ConfigurationError("here is for plain handlers; await it instead")
        try:
            tools = self._durable()
        except BaseException:
            awaitable.close()
            raise
        return tools.steps.here(awaitable)

    def numbered(self, key: str) -> str:
        """A key with a number that counts up within the attempt, for steps in a loop.

        The order of the calls must be the same in each attempt: number the keys of concurrent
        branches before they branch, or let each branch number a key of its own.

        Args:
            key: What is numbered, for instance ``page``; the first is ``page#1``.

        Raises:
            InvalidName: It cannot name a step.
            DuplicateStep: Another branch numbers the same key.
        """
        return self._durable().record.numbered(key)
