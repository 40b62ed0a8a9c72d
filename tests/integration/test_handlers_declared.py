"""What can be declared as a handler is executed as a step's function is; the rest is refused."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import ConfigurationError, ExecutionFailed, InvalidInput
from pgconductor.testing import Rehearsal
from tests.integration.runtime_world import SOON, World

Declared = Callable[..., Any]


async def add(ctx: TaskContext, number: int) -> int:
    return number + await ctx.step("one", one)


def one() -> int:
    return 1


def traced(function: Declared) -> Declared:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_three(function: Declared) -> Declared:
    @functools.wraps(function)
    def wrapper(ctx: TaskContext, number: int) -> Any:
        return function(ctx, number, 1)

    return wrapper


@with_three
async def given_more(ctx: TaskContext, number: int, other: int) -> int:
    return number + await ctx.step("one", lambda: other)


def adapted(ctx: TaskContext, number: int) -> Coroutine[Any, Any, int]:
    return add(ctx, number)


def awaitable(ctx: TaskContext, number: int) -> Awaitable[int]:
    return asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(add(ctx, number), LOOPS[-1]), loop=LOOPS[-1]
    )


LOOPS: list[asyncio.AbstractEventLoop] = []


class Shop:
    @staticmethod
    async def static(ctx: TaskContext, number: int) -> int:
        return await add(ctx, number)

    @staticmethod
    def static_plain(ctx: TaskContext, number: int) -> int:
        return number + ctx.step_here("one", one)

    @classmethod
    async def of_class(cls, ctx: TaskContext, number: int) -> int:
        return await add(ctx, number)

    async def method(self, ctx: TaskContext, number: int) -> int:
        return await add(ctx, number)

    async def __call__(self, ctx: TaskContext, number: int) -> int:
        return await add(ctx, number)


class Plain:
    def __call__(self, ctx: TaskContext, number: int) -> int:
        return number + ctx.step_here("one", one)


async def bound(step: int, ctx: TaskContext, number: int) -> int:
    return number + await ctx.step("one", lambda: step)


async def positional(ctx: TaskContext, number: int, /) -> int:
    return await add(ctx, number)


async def default(ctx: TaskContext, number: int = 1, *, flag: bool = True, **rest: Any) -> int:
    assert flag
    return await add(ctx, number)


WORKS: dict[str, Any] = {
    "async": add,
    "wrapped": traced(add),
    "wrapped twice": traced(traced(add)),
    "wrapped and given more": given_more,
    "static": vars(Shop)["static"],
    "static, plain": vars(Shop)["static_plain"],
    "classmethod, bound": Shop.of_class,
    "method": Shop().method,
    "object": Shop(),
    "plain object": Plain(),
    "wrapped object": traced(Shop()),
    "partial": functools.partial(bound, 1),
    "wrapped partial": traced(functools.partial(bound, 1)),
    "partial of an object": functools.partial(Shop()),
    "lambda": lambda ctx, number: adapted(ctx, number + 0),
    "plain, returns a coroutine": adapted,
    "plain, returns a future": awaitable,
    "positional only": positional,
    "default": default,
}
if sys.version_info >= (3, 12):
    WORKS["marked"] = inspect.markcoroutinefunction(lambda ctx, number: adapted(ctx, number + 0))


@pytest.mark.parametrize("name", WORKS)
async def test_it_is_executed(name: str) -> None:
    """Semantics 6: awaited, as a step's function is; its steps are on record."""
    LOOPS.append(asyncio.get_running_loop())
    conductor = Conductor()
    task = conductor.task("task", max_attempts=1)(WORKS[name])
    async with Rehearsal(conductor) as rehearsal:
        handle = await task.invoke(1)
        assert await handle.result() == 2
        assert list(await rehearsal.steps(handle.id)) == ["one"]


@pytest.mark.parametrize("name", ["wrapped", "object", "plain, returns a coroutine"])
async def test_it_is_executed_on_postgres(world: World, name: str) -> None:
    conductor = world.conductor()
    task = conductor.task("task", max_attempts=1)(WORKS[name])
    handle = await task.invoke(1)
    await conductor.orchestrator().drain()
    assert await handle.result(SOON) == 2


async def test_what_a_wrapper_gives_is_cancelled_and_timed_out(world: World) -> None:
    """It goes on in the event loop: it is told like any async handler."""
    conductor = world.conductor()
    told: list[str] = []
    begun = asyncio.Event()

    async def endless(ctx: TaskContext) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(ctx.task)
            raise

    cancelled = conductor.task("cancelled")(traced(endless))
    timed = conductor.task("timed", max_attempts=1, timeout=timedelta(milliseconds=300))(
        traced(endless)
    )
    async with world.serving(conductor):
        handle = await cancelled.invoke()
        await begun.wait()
        await handle.cancel("not wanted")
        failed = await timed.invoke()
        with pytest.raises(ExecutionFailed, match="took longer"):
            await failed.result(SOON)
    assert world.execution(handle.id)["state"] == "cancelled"
    assert sorted(told) == ["cancelled", "timed"]


async def test_a_step_in_the_thread_and_others_behind_it() -> None:
    """A wrapper may take steps by itself before it gives the coroutine; a replay finds all."""
    conductor = Conductor()

    @conductor.task
    def mixed(ctx: TaskContext) -> Any:
        first = ctx.step_here("first", one)

        async def rest() -> int:
            await ctx.sleep("night", timedelta(hours=8))
            return first + await ctx.step("second", one)

        return rest()

    async with Rehearsal(conductor) as rehearsal:
        handle = await mixed.invoke()
        assert await handle.result() == 2
        assert list(await rehearsal.steps(handle.id)) == [
            "first",
            "night",
            "second",
        ]


async def generator(ctx: TaskContext) -> Any:
    yield 1


class Generates:
    def __call__(self, ctx: TaskContext) -> Iterator[int]:
        yield 1


class Made:
    def __init__(self, ctx: TaskContext, number: int) -> None: ...

    def method(self, ctx: TaskContext) -> None: ...


def nameless(function: Declared) -> Declared:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def takes_other(function: Declared) -> Declared:
    @functools.wraps(function)
    def wrapper(number: int) -> Any:
        return function(number)

    return wrapper


async def keyword(ctx: TaskContext, *, number: int) -> int:
    return number


async def keywords(ctx: TaskContext, **payload: Any) -> None: ...


async def several(ctx: TaskContext, *numbers: int) -> None: ...


async def more(ctx: TaskContext, number: int, session: Any, other: Any) -> None: ...


async def more_keywords(ctx: TaskContext, number: int, *, session: Any) -> None: ...


async def nothing() -> None: ...


async def in_class(self: Any, ctx: TaskContext) -> None: ...


def hinted(payload: str, result: str) -> Declared:
    async def handler(ctx: TaskContext, payload: Any) -> Any: ...

    handler.__annotations__ = {"payload": payload, "return": result}
    return handler


def taking(first: Any) -> Declared:
    async def handler(first: Any) -> None: ...

    handler.__annotations__ = {"first": first}
    return handler


@pytest.mark.parametrize(
    "hint", [TaskContext, "TaskContext | None", "Missing", Any, object, "Any | int", None, Callable]
)
def test_a_context_may_have_any_type_that_it_may_be(hint: Any) -> None:
    Conductor().task(taking(hint))


REFUSED: dict[str, tuple[Any, str]] = {
    "generator": (generator, "is a generator"),
    "generating object": (Generates(), "is a generator"),
    "static generator": (staticmethod(generator), "is a generator"),
    "partial of a generator": (functools.partial(generator), "is a generator"),
    "class": (Made, "is a class"),
    "classmethod": (vars(Shop)["of_class"], "declare it below the class"),
    "method in its class": (Made.method, "declare the method of an object"),
    "with self": (in_class, "declare the method of an object"),
    "no wraps": (nameless(add), "functools.wraps"),
    "wrapper of another kind": (takes_other(add), "cannot be called by"),
    "wrapped generator's arguments": (traced(several), r"\*args"),
    "keyword": (keyword, "'number' is keyword-only; take the '\\*' away"),
    "wrapped keyword": (traced(keyword), "keyword-only"),
    "keywords": (keywords, "takes no payload"),
    "payload alone": (taking("int"), "its first parameter, 'first', would get the context"),
    "payload alone, or none": (taking(UUID | list[int] | None), "put ctx before it"),
    "several": (several, r"of \*args nobody can tell"),
    "more": (more, "nothing is given for 'session', 'other'; bind a value by functools.partial"),
    "more keywords": (more_keywords, "nothing is given for 'session'"),
    "nothing": (nothing, "takes no context"),
    "partial of all": (functools.partial(nothing), "takes no context"),
    "builtin": (print, "must take"),
    "no signature": (operator.attrgetter("x"), "does not tell|must take"),
    "C function": (getattr, "does not tell|must take"),
    "unresolved": (hinted("Missing", "int"), "cannot be resolved"),
    "attribute": (hinted("functools.missing", "int"), "cannot be resolved"),
    "no expression": (hinted("int", "int |"), "cannot be resolved"),
    "not a type": (hinted("1 + 'a'", "int"), "cannot be resolved"),
    "number": (7, "is not callable"),
    "none": (None, "is not callable"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_where_it_is_declared(name: str) -> None:
    """Semantics 6: the message says what to do; nothing is registered."""
    function, why = REFUSED[name]
    conductor = Conductor()
    declare: Any = conductor.task("task")
    with pytest.raises(ConfigurationError, match=why):
        declare(function)
    assert not conductor.tasks


@pytest.mark.parametrize(
    "function", [functools.partial(add), Shop(), lambda ctx: None], ids=["partial", "object", "λ"]
)
def test_what_has_no_name_is_to_be_given_one(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="has no name of its own; give it one"):
        Conductor().task(function)


def test_a_task_is_not_declared_again() -> None:
    conductor = Conductor()
    task: Any = conductor.task(add)
    with pytest.raises(ConfigurationError, match="'add' is a task already"):
        conductor.task(task)
    with pytest.raises(ConfigurationError, match=r"of \*args|is a task already"):
        conductor.task("again")(task)


@contextmanager
def manager(ctx: TaskContext) -> Any:
    yield 1


async def test_what_a_wrapper_makes_of_a_generator_is_no_result() -> None:
    """Nobody can tell before it is called."""
    conductor = Conductor()
    task = conductor.task(manager)
    async with Rehearsal(conductor):
        with pytest.raises(ExecutionFailed, match="cannot be stored"):
            await (await task.invoke()).result()


STEPS: dict[str, Any] = {
    "static": vars(Shop)["static"],
    "object": Shop(),
    "wrapped": traced(add),
    "partial": functools.partial(bound, 1),
    "lambda": lambda ctx, number: adapted(ctx, number + 0),
}


@pytest.mark.parametrize("name", STEPS)
async def test_a_step_takes_the_same(name: str) -> None:
    conductor = Conductor()

    @conductor.task
    async def task(ctx: TaskContext) -> Any:
        return await ctx.step("outer", STEPS[name], ctx, 1)

    async with Rehearsal(conductor):
        assert await (await task.invoke()).result() == 2


@pytest.mark.parametrize(
    ("function", "why"),
    [(generator, "is a generator"), (Generates(), "is a generator"), (7, "cannot be called")],
    ids=["generator", "object", "number"],
)
@pytest.mark.parametrize("way", ["step", "options", "transact", "step_here"])
async def test_a_step_refuses_the_same_before_anything_is_done(
    function: Any, why: str, way: str
) -> None:
    """The key is free afterwards."""
    conductor = Conductor()

    @conductor.task
    def task(ctx: TaskContext) -> str:
        takes: dict[str, Callable[[], Any]] = {
            "step": lambda: ctx.here(ctx.step("key", function)),
            "options": lambda: ctx.here(ctx.options(max_attempts=2).step("key", function)),
            "transact": lambda: ctx.here(ctx.transact("key", function)),
            "step_here": lambda: ctx.step_here("key", function),
        }
        with pytest.raises(InvalidInput, match=why):
            takes[way]()
        return ctx.step_here("key", str, "free")

    async with Rehearsal(conductor) as rehearsal:
        handle = await task.invoke()
        assert await handle.result() == "free"
        assert len(await rehearsal.steps(handle.id)) == 1
