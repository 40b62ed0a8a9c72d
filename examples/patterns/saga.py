"""Saga: a trip is booked in several places, and all of it is undone if one of them refuses.

Whether to go on or to undo is decided by `StepFailed`, which is on record: an attempt after a crash
decides the same. `except Exception` would not do: an error that is not on record may be gone in the
next attempt, which would then book what this one has begun to undo.

PGCONDUCTOR_DATABASE_URL=... python examples/patterns/saga.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from pgconductor import Conductor, RetryPolicy, TaskContext
from pgconductor.exceptions import StepFailed

conductor = Conductor()


class Trip(BaseModel):
    name: str
    sold_out: list[str] = []


class SoldOut(Exception):
    pass


bookings: dict[str, str] = {}  # those of another service


async def book(what: str, trip: Trip, reference: str) -> None:
    """Book there, which does nothing for a reference that it knows already."""
    if what in trip.sold_out:
        raise SoldOut(f"no {what} is left")
    if reference not in bookings:
        bookings[reference] = what
        print(f"{trip.name}: {what} booked")


async def cancel(trip: Trip, reference: str) -> None:
    """Undo it; it is no error if there is nothing to undo."""
    if what := bookings.pop(reference, None):
        print(f"{trip.name}: {what} cancelled")


@conductor.task(max_attempts=20)  # an undoing that fails is tried again for long
async def book_trip(ctx: TaskContext, trip: Trip) -> str:
    patient = ctx.options(
        max_attempts=5,
        retry=RetryPolicy(first_delay=timedelta(seconds=1), fatal=(SoldOut,)),
        timeout=timedelta(seconds=30),
    )
    begun: list[str] = []
    try:
        for what in ("hotel", "flight", "car"):
            # Before the step: if its answer was lost, it may have happened, and is undone too.
            begun.append(what)
            await patient.step(f"book {what}", book, what, trip, f"{ctx.execution_id}:{what}")
    except StepFailed as error:
        for what in reversed(begun):
            await ctx.step(f"cancel {what}", cancel, trip, f"{ctx.execution_id}:{what}")
        return f"not booked: {error.error_message}"
    return "booked"


async def main() -> None:
    async with conductor:
        for trip in (Trip(name="Rome"), Trip(name="Oslo", sold_out=["flight"])):
            handle = await book_trip.invoke(trip)
            await conductor.orchestrator().drain()
            print(f"{trip.name}: {await handle.result()}")


if __name__ == "__main__":
    asyncio.run(main())
