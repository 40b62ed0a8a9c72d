"""Rehearsals in memory: durable handlers without a database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from pgconductor import Conductor, ExecutionState, RetryPolicy, TaskContext
from pgconductor.domain.steps import StepKind
from pgconductor.exceptions import ConfigurationError, ExecutionFailed, StepFailed, WaitTimeout
from pgconductor.testing import (
    FakeDatabase,
    Rehearsal,
    StepError,
    assert_survives_crashes,
    crash_everywhere,
)
from pgconductor.testing import player as player_module

DAY = timedelta(days=1)
NOTHING = timedelta(0)


class Order(BaseModel):
    id: int


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


async def test_the_clock_jumps_over_waits(conductor: Conductor) -> None:
    paid = conductor.event("paid", Order)

    @conductor.task
    async def ship(ctx: TaskContext, order: Order) -> str:
        await ctx.sleep("packing", 2 * DAY)
        return f"parcel {order.id}"

    @conductor.task
    async def checkout(ctx: TaskContext, order: Order) -> str:
        await ctx.sleep("cooling off", DAY)
        one, two = await asyncio.gather(
            ctx.invoke("one", ship, order), ctx.invoke("two", ship, Order(id=9))
        )
        got = await ctx.wait_for("payment", paid, match={"id": order.id})
        return f"{one}, {two}, paid {got.id}"

    async with Rehearsal(conductor) as rehearsal:
        handle = await checkout.invoke(Order(id=7))
        assert await handle.state() is ExecutionState.AVAILABLE
        before = await rehearsal.now()
        drained = await rehearsal.drain()
        assert await rehearsal.now() - before == drained.passed == 3 * DAY
        (waiting,) = drained.waiting
        assert (waiting.kind, waiting.what) == (StepKind.EVENT, "paid")
        assert str(waiting) == "checkout waits for event 'paid' as 'payment'"
        assert not drained.finished

        await rehearsal.emit(paid, Order(id=7))
        assert await handle.result() == "parcel 7, parcel 9, paid 7"
        assert (await rehearsal.drain()).finished
        assert await rehearsal.invoked(ship) == [Order(id=7), Order(id=9)]
        assert await rehearsal.steps(handle) == {
            "cooling off": None,
            "one": "parcel 7",
            "two": "parcel 9",
            "payment": {"id": 7},
        }
    with pytest.raises(ConfigurationError, match="database"):
        await handle.state()  # The conductor is what it was.


async def test_time_passes_only_as_far_as_it_is_told(conductor: Conductor) -> None:
    woken: set[int] = set()

    @conductor.task
    async def remind(ctx: TaskContext) -> None:
        for day in range(3):
            await ctx.sleep(f"day {day}", DAY)
            woken.add(day)

    async with Rehearsal(conductor) as rehearsal:
        handle = await remind.invoke(delay=DAY)
        assert [one.id for one in (await rehearsal.drain(at_most=NOTHING)).later] == [handle.id]
        start = await rehearsal.now()
        await rehearsal.pass_time(2.5 * DAY)
        assert (woken, await rehearsal.now() - start) == ({0}, 2.5 * DAY)
        await rehearsal.pass_time(0.5 * DAY)
        assert woken == {0, 1}
        rehearsal.clock.advance(DAY)
        assert (await rehearsal.drain(at_most=NOTHING)).finished
        assert woken == {0, 1, 2}


async def test_retries_and_timeouts_need_no_waiting(conductor: Conductor) -> None:
    calls: list[int] = []

    @conductor.task(max_attempts=2, retry=RetryPolicy.constant(DAY))
    async def shaky(ctx: TaskContext) -> str:
        async def call() -> str:
            calls.append(ctx.attempt)
            raise OSError("no")

        stepper = ctx.options(max_attempts=2, retry=RetryPolicy.constant(DAY))
        with pytest.raises(StepFailed):
            await stepper.step("call", call)
        with pytest.raises(WaitTimeout):
            await ctx.wait_for("never", "never", timeout=DAY)
        if ctx.attempt == 1:
            raise OSError("again")
        return "done"

    async with Rehearsal(conductor) as rehearsal:
        handle = await shaky.invoke()
        assert (await rehearsal.drain()).passed == 3 * DAY
        assert await handle.result() == "done"
        assert calls == [1, 1]
        assert (await rehearsal.steps(handle))["call"] == StepError("OSError", "no")


async def test_a_result_that_nothing_brings(conductor: Conductor) -> None:
    @conductor.task
    async def wait(ctx: TaskContext) -> Any:
        return await ctx.wait_for("approval", "approved")

    @conductor.task(max_attempts=1)
    async def inner(ctx: TaskContext) -> Any:
        return await (await wait.invoke()).result()

    async with Rehearsal(conductor) as rehearsal:
        handle = await wait.invoke()
        with pytest.raises(AssertionError, match="wait waits for event 'approved' as 'approval'"):
            await handle.result()
        await conductor.emit("approved", True)
        assert await handle.result() is True
        with pytest.raises(ExecutionFailed, match=r"a handler .* cannot wait for a handle"):
            await (await inner.invoke()).result()
        with pytest.raises(AssertionError, match="never was not invoked"):
            await rehearsal.assert_invoked(conductor.task_ref("never"))


async def test_what_was_invoked(conductor: Conductor) -> None:
    elsewhere = conductor.task_ref("elsewhere", payload=Order)

    @conductor.task
    def plain(ctx: TaskContext, order: Order) -> str:
        return ctx.step_here("said", str, f"order {order.id}") + ctx.here(ctx.step("x", str, "!"))

    async with Rehearsal(conductor) as rehearsal:
        handle = await plain.invoke(Order(id=1))
        await elsewhere.invoke(Order(id=2))
        drained = await rehearsal.drain()
        assert await handle.result() == "order 1!"
        assert [one.task_key for one in drained.unknown] == ["elsewhere"]
        assert "elsewhere is not declared here" in str(drained)
        await rehearsal.assert_invoked(elsewhere, Order(id=2), times=1)
        await rehearsal.assert_invoked(elsewhere, {"id": 2})
        await rehearsal.assert_invoked(plain)
        with pytest.raises(AssertionError, match=r"with Order\(id=3\); .* with: \[Order\(id=2\)\]"):
            await rehearsal.assert_invoked(elsewhere, Order(id=3))
        with pytest.raises(AssertionError, match="2 times, but 1"):
            await rehearsal.assert_invoked(plain, Order(id=1), times=2)
        assert {one.task_key for one in await rehearsal.executions()} == {"plain", "elsewhere"}
        assert len(rehearsal.database.executions) == 2


# --- sessions ------------------------------------------------------------------------------------


class OwnSession:
    """What an application's tests may take for a session."""

    def __init__(self, committed: list[str]) -> None:
        self._committed = committed
        self._written: list[str] = []

    def add(self, what: str) -> None:
        self._written.append(what)

    async def commit(self) -> None:
        self._committed += self._written

    async def rollback(self) -> None:
        self._written.clear()


async def test_sessions_of_the_applications_own(conductor: Conductor) -> None:
    committed: list[str] = []

    async def book(session: Any, what: str) -> str:
        session.add(what)
        return what

    @conductor.task(max_attempts=1)
    async def checkout(ctx: TaskContext) -> str:
        booked = await ctx.transact("book", book, "booked")
        async with ctx.transaction("note") as session:
            session.add("noted")
        return booked

    async def scenario(rehearsal: Rehearsal) -> tuple[str, list[str]]:
        committed.clear()
        handle = await checkout.invoke()
        return await handle.result(), list(committed)

    def make() -> Rehearsal:
        return Rehearsal(conductor, sessions=lambda: OwnSession(committed))

    async with make() as rehearsal:
        assert await scenario(rehearsal) == ("booked", ["booked", "noted"])
    assert len(await assert_survives_crashes(make, scenario)) == 5
    async with Rehearsal(conductor):
        with pytest.raises(ExecutionFailed, match=r"Rehearsal\(conductor, sessions="):
            await (await checkout.invoke()).result()


async def test_what_is_invoked_in_a_session_commits_with_it(conductor: Conductor) -> None:
    @conductor.task
    async def send(ctx: TaskContext, order: int) -> None: ...

    engine = create_engine("sqlite://")
    async with Rehearsal(conductor) as rehearsal:
        with Session(engine) as session:
            send.invoke_sync(1, session=session)
            send.invoke_sync(2, session=session)
            assert await rehearsal.invoked(send) == []
            session.commit()
            assert await rehearsal.invoked(send) == [1, 2]
            send.invoke_sync(3, session=session)
            session.rollback()
            send.invoke_sync(4, session=session)
        with Session(engine) as session, session.begin():
            send.invoke_sync(5, session=session)
        assert await rehearsal.invoked(send) == [1, 2, 5]
        with pytest.raises(ConfigurationError, match="has no database"):
            _ = conductor.engine
        with pytest.raises(ConfigurationError, match="cannot make sessions"):
            _ = conductor.sessionmaker
    engine.dispose()


async def test_completing_in_no_session(conductor: Conductor) -> None:
    """As on a server: it would be completed at once, whatever becomes of the transaction."""

    @conductor.task(max_attempts=1)
    async def checkout(ctx: TaskContext) -> str:
        await ctx.complete_in(None, "booked")
        return "booked"

    async with Rehearsal(conductor):
        with pytest.raises(ExecutionFailed, match=r"WrongSession: session: .*, not NoneType"):
            await (await checkout.invoke()).result()


# --- crashes -------------------------------------------------------------------------------------


async def test_a_crash_before_and_after_a_step(conductor: Conductor) -> None:
    calls: list[str] = []
    cleaned: list[int] = []

    @conductor.task(max_attempts=1)
    async def checkout(ctx: TaskContext) -> str:
        async def charge() -> str:
            calls.append("charge")
            return "c1"

        async def mail() -> None:
            calls.append("mail")

        try:
            charged = await ctx.step("charge", charge)
            await ctx.step("mail", mail)
        finally:
            cleaned.append(ctx.attempt)
        return charged

    async with Rehearsal(conductor) as rehearsal:
        before = rehearsal.crash_at("charge")
        after = rehearsal.crash_at("mail", when="after", task="checkout")
        handle = await checkout.invoke()
        drained = await rehearsal.drain()
        assert await handle.result() == "c1"
        assert (drained.attempts, drained.crashes) == (3, 2)
        assert (before.struck, after.struck) == (1, 1)
    assert calls == ["charge", "charge", "mail"]
    assert cleaned == [1, 1, 1]


async def test_an_execution_that_kills_its_process_for_good(conductor: Conductor) -> None:
    @conductor.task(max_crashes=2)
    def poison(ctx: TaskContext) -> str:
        return ctx.here(ctx.step("drink", str, "cheers"))

    async with Rehearsal(conductor) as rehearsal:
        rehearsal.crash_at_end(times=1)
        rehearsal.crash_at("drink", when="after")
        handle = await poison.invoke()
        with pytest.raises(ExecutionFailed, match="crash"):
            await handle.result()


async def test_a_crash_that_never_happens(conductor: Conductor) -> None:
    @conductor.task
    async def greet(ctx: TaskContext) -> None:
        await ctx.step("greet", print)

    async def story() -> None:
        async with Rehearsal(conductor) as rehearsal:
            rehearsal.crash_at("great")
            await greet.invoke()
            await rehearsal.drain()

    with pytest.raises(AssertionError, match=r"any task: before 'great' (.|\n)*before 'greet'"):
        await story()


async def test_crashes_everywhere(conductor: Conductor) -> None:
    calls: list[int] = []

    @conductor.task
    async def child(ctx: TaskContext, number: int) -> int:
        await ctx.sleep("a day", DAY)
        return number + 1

    @conductor.task
    async def careless(ctx: TaskContext) -> int:
        async def call() -> int:
            calls.append(1)
            return len(calls)

        await ctx.step("call", call)
        await ctx.spawn("other", child, 7)
        return await ctx.invoke("child", child, 1)

    async def scenario(rehearsal: Rehearsal) -> int:
        calls.clear()
        handle = await careless.invoke()
        await rehearsal.drain()
        return await handle.result()

    points = await assert_survives_crashes(conductor, scenario)
    steps = {point.boundary.step for point in points if point.boundary.task == "careless"}
    assert steps == {"call", "other", "child", None}
    assert len(points) == len(set(points)) == 16

    async def exact(rehearsal: Rehearsal) -> int:
        await scenario(rehearsal)
        return len(calls)

    with pytest.raises(AssertionError) as failed:
        await assert_survives_crashes(conductor, exact)
    assert str(failed.value) == (
        "1 of 16 crashes change the end, which was 1 with "
        "{'careless completed': 1, 'child completed': 2}:\n"
        "  careless: before 'call' was on record: 2"
    )


async def test_a_pass_says_where_its_process_died(conductor: Conductor) -> None:
    @conductor.task(max_crashes=1)
    async def once(ctx: TaskContext) -> str:
        return await ctx.step("say", str, "hello")

    async def story() -> None:
        async for crash in crash_everywhere(conductor):
            async with crash as rehearsal:
                handle = await once.invoke()
                await rehearsal.drain()
                assert await handle.result() == "hello"

    with pytest.raises(ExecutionFailed) as failed:
        await story()
    assert failed.value.__notes__ == ["This was with a crash in once: before 'say' was on record."]
    with pytest.raises(RuntimeError, match="enter each pass"):
        _ = [one async for one in crash_everywhere(conductor)]


async def test_a_scenario_that_a_crash_breaks(conductor: Conductor) -> None:
    @conductor.task(max_crashes=1)
    async def once(ctx: TaskContext) -> str:
        return await ctx.step("say", str, "hello")

    async def broken(rehearsal: Rehearsal) -> str:
        return await (await once.invoke()).result()

    async def told_nothing(rehearsal: Rehearsal) -> None:
        await once.invoke()
        await rehearsal.drain()

    with pytest.raises(AssertionError, match=r"3 of 3 crashes (.|\n)*: ExecutionFailed: "):
        await assert_survives_crashes(conductor, broken)
    with pytest.raises(AssertionError, match=r"was on record: \{'once failed': 1\}"):
        await assert_survives_crashes(conductor, told_nothing)


async def test_branches_die_together(conductor: Conductor) -> None:
    done: list[str] = []
    swallowed: list[str] = []

    @conductor.task
    async def child(ctx: TaskContext, name: str) -> str:
        await ctx.sleep("a week", 7 * DAY)
        return name

    @conductor.task(max_attempts=1)
    async def parent(ctx: TaskContext) -> list[str]:
        async def branch(name: str) -> str:
            said = await ctx.step(name, str, name)
            try:
                await ctx.invoke(f"child {name}", child, name, timeout=DAY)
            except WaitTimeout:
                done.append(await ctx.step(f"late {name}", str, said))
            except asyncio.CancelledError:
                swallowed.append(name)
                await ctx.step(f"never {name}", done.append, name)
            return said

        async with asyncio.TaskGroup() as group:
            branches = [group.create_task(branch(name)) for name in "abc"]
        return [one.result() for one in branches]

    async def scenario(rehearsal: Rehearsal) -> Any:
        done.clear()
        handle = await parent.invoke()
        drained = await rehearsal.drain()
        assert drained.passed == DAY
        states = {one.state for one in await rehearsal.executions(child)}
        return await handle.result(), states, set(done)

    points = await assert_survives_crashes(conductor, scenario)
    assert len(points) > 18
    async with Rehearsal(conductor) as rehearsal:
        rehearsal.crash_at("child b", when="after")
        assert await scenario(rehearsal) == (
            ["a", "b", "c"],
            {ExecutionState.CANCELLED},
            {"a", "b", "c"},
        )


async def test_a_drain_that_is_cut_short(conductor: Conductor) -> None:
    begun = asyncio.Event()

    @conductor.task(max_attempts=1)
    async def slow(ctx: TaskContext) -> str:
        begun.set()
        if ctx.attempt == 1 and not quick:
            await asyncio.Event().wait()
        return "done"

    quick: list[int] = []
    async with Rehearsal(conductor) as rehearsal:
        handle = await slow.invoke()
        draining = asyncio.create_task(rehearsal.drain())
        await begun.wait()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        quick.append(1)
        assert await handle.result() == "done"


# --- trouble -------------------------------------------------------------------------------------


async def test_a_handler_that_catches_whatever_ends_it(conductor: Conductor) -> None:
    over: list[bool] = []

    @conductor.task
    async def greedy(ctx: TaskContext) -> None:
        while not over:
            with suppress(BaseException):
                await ctx.sleep("a day", DAY)

    async with Rehearsal(conductor, patience=timedelta(milliseconds=500)) as rehearsal:
        handle = await greedy.invoke()
        with pytest.raises(TimeoutError, match="it catches the BaseException that ends it"):
            await rehearsal.drain()
        over.append(True)  # For Python ends it, too, when nobody needs it any more.
        await handle.cancel()


async def test_a_handler_that_waits_for_what_is_no_wait(conductor: Conductor) -> None:
    @conductor.task
    async def stuck(ctx: TaskContext) -> None:
        await asyncio.Event().wait()

    async with Rehearsal(conductor, patience=timedelta(milliseconds=10)) as rehearsal:
        handle = await stuck.invoke()
        with pytest.raises(TimeoutError, match="no wait of its context"):
            await rehearsal.drain()
        assert await handle.state() is ExecutionState.AVAILABLE
        await handle.cancel()


async def test_executions_without_end(
    conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "_MOST", 20)

    @conductor.task
    async def again(ctx: TaskContext) -> None:
        await ctx.spawn("next", conductor.get_task("again"), delay=DAY)

    async with Rehearsal(conductor) as rehearsal:
        await again.invoke()
        with pytest.raises(AssertionError, match="no end after 20 attempts: again is due again"):
            await rehearsal.drain()
        assert (await rehearsal.drain(at_most=3 * DAY)).attempts == 4


async def test_one_rehearsal_at_a_time(conductor: Conductor) -> None:
    async with Rehearsal(conductor, FakeDatabase()):
        with pytest.raises(ConfigurationError, match="one at a time"):
            async with Rehearsal(conductor):
                pass
    async with Rehearsal(conductor) as rehearsal:
        assert rehearsal.database.executions == {}
