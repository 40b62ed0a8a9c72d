"""Agent loop: a model decides, tools act, until the model has an answer.

Each call of the model and of a tool is a step: a crash, or a deploy, costs no call that was paid
for, and the conversation is the same in each attempt, for it is made of what is on record. A tool
that fails is no failed step: its error is an observation, which the model gets to see. A tool that
writes to the application's own database would be a `ctx.transact`.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/agent.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pydantic import BaseModel

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import DoNotRetry

conductor = Conductor()


class Call(BaseModel):
    id: str
    tool: str
    argument: str


class Message(BaseModel):
    role: str
    text: str = ""
    calls: list[Call] = []


async def ask_model(messages: list[Message]) -> Message:
    """A model of two rules, in place of a real one."""
    if messages[-1].role == "user":
        calls = [Call(id="1", tool="weather", argument="Oslo")]
        calls.append(Call(id="2", tool="weather", argument="Atlantis"))
        return Message(role="model", calls=calls)
    seen = [message.text for message in messages if message.role == "tool"]
    return Message(role="model", text="; ".join(seen))


async def weather(place: str) -> str:
    if place != "Oslo":
        raise LookupError(f"there is no {place}")
    return f"snow in {place}"


TOOLS: dict[str, Callable[[str], Awaitable[str]]] = {"weather": weather}


async def use_tool(call: Call) -> Message:
    try:
        return Message(role="tool", text=await TOOLS[call.tool](call.argument))
    except Exception as error:  # noqa: BLE001 - a tool may raise anything; the model is told
        return Message(role="tool", text=f"{type(error).__name__}: {error}")


@conductor.task(queue="agents")
async def answer(ctx: TaskContext, question: str) -> str:
    patient = ctx.options(max_attempts=5, timeout=timedelta(minutes=2))
    messages = [Message(role="user", text=question)]
    for turn in range(20):
        reply = await patient.step(ctx.numbered("model"), ask_model, messages)
        messages.append(reply)
        if not reply.calls:
            return reply.text
        # Keys of concurrent branches are made before they branch, here of the turn and the call.
        messages += await asyncio.gather(
            *(ctx.step(f"tool {turn}.{call.id}", use_tool, call) for call in reply.calls)
        )
    raise DoNotRetry("no answer after 20 turns")


async def main() -> None:
    async with conductor:
        handle = await answer.invoke("How is the weather in Oslo and in Atlantis?")
        await conductor.orchestrator().drain()
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
