"""A service with a sync Session, on psycopg: invoke with it, execute elsewhere.

Needs `pip install "pgconductor[psycopg]"`. Execute it with `python examples/sync_session.py`.
"""

from __future__ import annotations

import asyncio

from database import database
from pydantic import BaseModel
from sqlalchemy import create_engine, make_url, select
from sqlalchemy.orm import Session

from pgconductor import Conductor, TaskContext
from pgconductor.models import Execution


class Report(BaseModel):
    month: str


def main(url: str) -> None:
    conductor = Conductor(database_url=url)

    @conductor.task
    def build_report(ctx: TaskContext, report: Report) -> int:  # a plain handler gets a thread
        ctx.check()  # in a long one now and then: it ends here if the process is to stop
        return len(report.month)

    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with Session(engine) as session, session.begin():
        handle = build_report.invoke_sync(Report(month="2025-11"), session=session)

    async def execute() -> None:
        async with conductor:
            await conductor.orchestrator().drain()

    asyncio.run(execute())

    with Session(engine) as session:
        execution = session.scalars(select(Execution).where(Execution.id == handle.id)).one()
        print(f"{execution.task_key} {execution.state}: {execution.result}")
    engine.dispose()


if __name__ == "__main__":
    with database() as url:
        main(url)
