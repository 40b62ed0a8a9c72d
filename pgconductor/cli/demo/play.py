"""The demo's course: invoke, execute, kill, recover, sum up, prove."""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from pgconductor import Conductor
from pgconductor.cli.demo.app import FileToCount, count_file, summarise
from pgconductor.cli.demo.counting import Counts, Source, recount
from pgconductor.cli.demo.proof import Proof, prove
from pgconductor.cli.demo.stage import Stage, WorkerProcess
from pgconductor.cli.demo.view import Display, Figures, Seat
from pgconductor.cli.demo.watch import Sample, file_rows, look
from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.domain.invocations import Invocation

__all__ = ["Play", "Script"]

_LOOK_SECONDS: Final = 0.15
_KILL_AT: Final = 0.4
_PATIENCE_SECONDS: Final = 60.0
_SUMMARY_LIMIT: Final = timedelta(seconds=30)
_REPLACEMENTS: Final = 5
#: How long the counting takes if nothing happens, on any machine that can keep up.
_TARGET_SECONDS: Final = 9.0
_LONGEST_PAUSE: Final = 0.25
_FAILING: Final = 40


@dataclass(frozen=True, slots=True)
class Script:
    """What the user asked for.

    Attributes:
        sources: The files.
        queue: The queue of this demo alone.
        workers: How many processes.
        kill: Whether one of them is killed.
        pause: Seconds that each execution waits; None for what makes it watchable.
    """

    sources: list[Source]
    queue: str
    workers: int
    kill: bool
    pause: float | None

    @property
    def failing(self) -> frozenset[str]:
        """The files whose first attempt fails: one in forty, the same ones each time."""
        paths = [one.path for one in self.sources]
        chosen = {path for path in paths if zlib.crc32(path.encode()) % _FAILING == 0}
        return frozenset(chosen or paths[:1])

    def pause_for(self, slots: int) -> float:
        """Seconds that each execution waits, where so many go on at once."""
        if self.pause is not None:
            return self.pause
        return min(_TARGET_SECONDS * slots / len(self.sources), _LONGEST_PAUSE)


@dataclass(slots=True)
class Crash:
    """The worker that was killed.

    Attributes:
        worker: Its process.
        at: When, by the monotonic clock.
        held: How many executions it held, as last seen.
        recovered_at: When they had been taken back.
    """

    worker: WorkerProcess
    at: float
    held: int
    recovered_at: float | None = None


@dataclass(slots=True)
class Play:
    """One performance.

    Args:
        script: What the user asked for.
        conductor: On the demo's database.
        database_url: The same database, for the workers.
        display: Who shows it.
    """

    script: Script
    conductor: Conductor
    database_url: str
    display: Display
    crash: Crash | None = None
    replacements: int = 0
    _stopping: bool = field(default=False)
    _retry_said: bool = field(default=False)

    @property
    def engine(self) -> AsyncEngine:
        """The demo's database."""
        return self.conductor.engine

    async def perform(self) -> tuple[Proof, Figures]:
        """Perform it all.

        Raises:
            CommandFailed: It got stuck, or the files changed meanwhile.
        """
        script, display = self.script, self.display
        async with Stage(self.database_url, script.queue, self._on_record) as stage:
            await self._invoke(stage)
            began = time.monotonic()
            for _ in range(script.workers):
                worker = await stage.start_worker()
                display.say(f"worker {worker.number} starts: pgconductor worker, pid {worker.pid}")
            sample = await self._until_finished(stage)
            seconds = time.monotonic() - began
            if script.kill and self.crash is None:
                display.say("too quick: no worker held anything that it could be killed over")
            display.say("all files are counted; a last execution sums up what they left", "good")
            summary = await self._summarise()
            await self._look(stage)
            self._stopping = True
            codes = await stage.stop()
            await self._look(stage)
            if any(codes):
                raise CommandFailed(f"workers ended with codes {codes}", ExitCode.ERROR)
            display.say("the workers have left, their orchestrators are gone from the table")
        proof = await self._prove(summary)
        return proof, self._figures(sample, seconds)

    async def _invoke(self, stage: Stage) -> None:
        script = self.script
        failing, pause = script.failing, script.pause_for(stage.slots * script.workers)
        invocations: list[Invocation] = []
        for one in script.sources:
            file = FileToCount(path=one.path, fails_once=one.path in failing, pause=pause)
            payload = file.model_dump_json()
            invocations.append(
                Invocation(task_key=count_file.name, payload=payload, queue=script.queue)
            )
        began = time.monotonic()
        await self.conductor.write(invocations, None)
        took = time.monotonic() - began
        self.display.view.total = len(invocations)
        self.display.say(
            f"{len(invocations):,} executions invoked in one transaction, {took * 1000:.0f} ms;"
            f" {len(failing)} are made to fail once"
        )
        if pause and script.pause is None:
            self.display.say(
                f"each waits {pause * 1000:.0f} ms, for you to watch (--pause 0: full speed)"
            )

    async def _until_finished(self, stage: Stage) -> Sample:
        """Watch until every file's execution has finished; kill one worker on the way."""
        last, moved = -1, time.monotonic()
        while True:
            sample = await self._look(stage)
            if sample.finished >= len(self.script.sources):
                return sample
            if sample.finished != last:
                last, moved = sample.finished, time.monotonic()
            elif time.monotonic() - moved > _PATIENCE_SECONDS:
                raise CommandFailed(_stuck(stage), ExitCode.ERROR)
            await self._direct(stage, sample)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _direct(self, stage: Stage, sample: Sample) -> None:
        for worker in [*stage.workers]:
            if worker.code is not None and not worker.killed:
                await self._replace(stage, worker)
        # So few files that all are held at once: it is now or never.
        all_held = sample.states.get("available", 0) == 0
        due = sample.completed >= _KILL_AT * len(self.script.sources) or all_held
        if not self.script.kill or self.crash is not None or not due:
            return
        victim = max(stage.living, key=lambda one: sample.held_by(one.pid), default=None)
        if victim is None or sample.held_by(victim.pid) == 0:
            return
        victim.kill()
        held = sample.held_by(victim.pid)
        self.crash = Crash(victim, time.monotonic(), held)
        self.display.say(f"kill -9 {victim.pid}: worker {victim.number} dies holding {held}", "bad")
        newcomer = await stage.start_worker()
        self.display.say(f"worker {newcomer.number} starts in its place, pid {newcomer.pid}")

    async def _replace(self, stage: Stage, worker: WorkerProcess) -> None:
        """A worker has ended by itself: on a machine under load it may be found stale."""
        self.replacements += 1
        if self.replacements > _REPLACEMENTS:
            raise CommandFailed(_stuck(stage), ExitCode.ERROR)
        worker.killed = True
        self.display.say(f"worker {worker.number} ended by itself, code {worker.code}", "bad")
        newcomer = await stage.start_worker()
        self.display.say(f"worker {newcomer.number} starts in its place, pid {newcomer.pid}")

    async def _look(self, stage: Stage) -> Sample:
        sample = await look(self.engine, self.script.queue)
        if self.crash is not None and self.crash.recovered_at is None:
            self._follow(self.crash, sample)
        seats = [self._seat(worker, sample) for worker in stage.workers]
        self.display.view.take(sample, seats)
        self.display.update()
        return sample

    def _follow(self, crash: Crash, sample: Sample) -> None:
        """What the dead still holds; when its orchestrator is gone, it holds nothing."""
        if crash.worker.pid in sample.holders:
            # A completion may have been on its way when the process died.
            crash.held = sample.held_by(crash.worker.pid) or crash.held
            return
        crash.recovered_at = time.monotonic()
        took = crash.recovered_at - crash.at
        self.display.say(
            f"the others notice: {sample.crashed} executions recovered {took:.1f} s after the kill",
            "good",
        )

    def _seat(self, worker: WorkerProcess, sample: Sample) -> Seat:
        worker.registered |= worker.pid in sample.holders
        if worker.killed:
            state = "killed" if worker.pid in sample.holders else "killed, recovered"
        elif worker.pid in sample.holders:
            state = "works"
        else:
            state = "left" if self._stopping else "starts"
        return Seat(worker.number, worker.pid, state, sample.held_by(worker.pid))

    def _on_record(self, worker: WorkerProcess, record: dict[str, Any]) -> None:
        message = str(record.get("message", ""))
        if record.get("logger") == "pgconductor.executions" and message.startswith("failed:"):
            if not self._retry_said:
                self._retry_said = True
                self.display.say(f"worker {worker.number} meets a made-up error, and will retry")
        elif message.startswith("recovered "):
            return  # Seen in the database as well, and said there.
        elif record.get("level") in {"WARNING", "ERROR", "CRITICAL"}:
            self.display.say(f"worker {worker.number} logs: {message}", "bad")

    async def _summarise(self) -> Counts:
        invocation = Invocation(task_key=summarise.name, queue=self.script.queue)
        (invoked,) = await self.conductor.write([invocation], None)
        result = await self.conductor.handle(invoked.id).result(timeout=_SUMMARY_LIMIT)
        return Counts.model_validate(result)

    async def _prove(self, summary: Counts) -> Proof:
        sources = self.script.sources
        self.display.say("the same files again: one process, one after the other, no database")
        began = time.monotonic()
        plain = await asyncio.to_thread(recount, sources)
        self.display.say(f"counted in {time.monotonic() - began:.1f} s; now both are compared")
        self.display.update()
        changed = [one.path for one in sources if not one.unchanged]
        if changed:
            raise CommandFailed(
                f"{len(changed)} files changed during the demo, so nothing is proven: {changed[0]}",
                ExitCode.ERROR,
            )
        crash = self.crash
        return prove(
            await file_rows(self.engine, self.script.queue),
            summary,
            plain,
            failed_once=self.script.failing,
            recovered=None if self.replacements else (crash.held if crash else 0),
        )

    def _figures(self, sample: Sample, seconds: float) -> Figures:
        crash = self.crash
        recovered_at = crash.recovered_at if crash is not None else None
        return Figures(
            seconds=round(seconds, 3),
            throughput=round(sample.finished / seconds, 1),
            retries=sample.failed_once,
            crashes=0 if crash is None else 1,
            recovered=sample.crashed,
            recovery_seconds=None
            if crash is None or recovered_at is None
            else round(recovered_at - crash.at, 3),
        )


def _stuck(stage: Stage) -> str:
    said = [f"worker {one.number}: {one.last_lines[-1]}" for one in stage.workers if one.last_lines]
    return f"the executions do not go on; last words: {'; '.join(said) or 'none'}"
