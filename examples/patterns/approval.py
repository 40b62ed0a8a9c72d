"""Human approval: ask, remind whoever does not answer, and give up after a while.

An answer that comes between two waits is not lost: a wait takes an event that was emitted since the
execution was invoked, also before the wait began. `match` tells the answers of many executions
apart. In a web service, `answer()` would be the endpoint behind the link in the mail.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/approval.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from pgconductor import Conductor, TaskContext
from pgconductor.exceptions import WaitTimeout

conductor = Conductor()


class Expense(BaseModel):
    what: str
    patience: timedelta = timedelta(days=2)


class Answer(BaseModel):
    expense: UUID
    by: str
    approved: bool


answered = conductor.event("expense-answered", Answer)
mails: list[tuple[str, UUID]] = []
reminded = asyncio.Event()


async def send_mail(subject: str, reference: UUID) -> None:
    mails.append((subject, reference))
    print(subject)
    if subject.startswith("Reminder"):
        reminded.set()


@conductor.task
async def approve(ctx: TaskContext, expense: Expense) -> str:
    await ctx.step("ask", send_mail, f"Please approve: {expense.what}", ctx.execution_id)
    for _ in range(3):
        try:
            answer = await ctx.wait_for(
                ctx.numbered("answer"),
                answered,
                match={"expense": str(ctx.execution_id)},
                timeout=expense.patience,
            )
        except WaitTimeout:
            subject = f"Reminder: {expense.what}"
            await ctx.step(ctx.numbered("remind"), send_mail, subject, ctx.execution_id)
        else:
            return f"{'approved' if answer.approved else 'refused'} by {answer.by}"
    return "nobody has answered"


async def answer(session: AsyncSession, expense: UUID, by: str, *, approved: bool) -> None:
    async with session.begin():
        # session.add(...): the answer is emitted exactly if this commits
        await answered.emit(Answer(expense=expense, by=by, approved=approved), session=session)


async def main() -> None:
    async with conductor:
        orchestrator = conductor.orchestrator()
        await orchestrator.start()
        try:
            expense = Expense(what="a new chair", patience=timedelta(seconds=1))
            handle = await approve.invoke(expense)
            await reminded.wait()
            async with conductor.sessionmaker() as session:
                await answer(session, handle.id, "Ada", approved=True)
            print(await handle.result(timeout=timedelta(seconds=30)))
        finally:
            await orchestrator.stop()


if __name__ == "__main__":
    asyncio.run(main())
