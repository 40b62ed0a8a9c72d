"""``worker``: execute the tasks of an application."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from pgconductor.cli.errors import CommandFailed
from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.locate import app_dir, locate
from pgconductor.cli.logs import set_up_logging
from pgconductor.cli.options import database_url, given_url
from pgconductor.cli.processes import READY, Supervisor, interpreter, process_count
from pgconductor.runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from pgconductor import Conductor
    from pgconductor.runtime.orchestrator import Orchestrator

__all__ = ["worker_command"]

logger = logging.getLogger("pgconductor.cli")

# By the value of ExitReason.
_CODES: Final = {
    "clean": ExitCode.OK,
    "forced": ExitCode.FORCED,
    "shutdown": ExitCode.SHUTDOWN,
    "evicted": ExitCode.EVICTED,
}
_LAST_CHANCE: Final = 1.0


def _of_supervisor(value: str) -> tuple[int, int]:
    """A type of option: the descriptor of a socket, and the number of this process."""
    descriptor, _, number = value.partition(":")
    return int(descriptor), int(number)


@click.command("worker")
@click.argument("app", metavar="MODULE:ATTRIBUTE")
@app_dir
@click.option("--queue", "queues", multiple=True, help="Serve this queue; else those of the tasks.")
@click.option("--concurrency", type=int, help="How many handlers at once for each queue.")
@click.option(
    "--processes",
    type=process_count,
    default="1",
    metavar="N",
    envvar="PGCONDUCTOR_PROCESSES",
    show_envvar=True,
    show_default=True,
    help="How many processes, kept alive by a supervisor; 'auto' is one a CPU.",
)
@click.option("--drain", is_flag=True, help="Stop when nothing is left that is due.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
)
@click.option("--log-json", is_flag=True, help="Log JSON, an object a line.")
@click.option("--supervised", hidden=True, type=_of_supervisor)
@database_url
def worker_command(
    *,
    app: str,
    app_dir: Path,
    queues: tuple[str, ...],
    concurrency: int | None,
    processes: int,
    drain: bool,
    log_level: str,
    log_json: bool,
    supervised: tuple[int, int] | None,
    database_url: str | None,
) -> ExitCode:
    """Execute the tasks of the conductor MODULE:ATTRIBUTE until SIGTERM or Ctrl-C.

    The first signal stops it gracefully, a second one hurries it, a third ends the process.
    --database-url is passed on in the environment, before the module is imported. With --processes
    a supervisor starts that many processes, each an orchestrator of its own, starts those that
    crash again, and passes signals on.
    """
    number = None if supervised is None else supervised[1]
    set_up_logging(log_level, as_json=log_json, process_number=number)
    url = given_url(database_url)
    if supervised is None and processes > 1:
        command = [*interpreter(), "-m", "pgconductor", "worker", app, "--app-dir", str(app_dir)]
        command += [f"--queue={queue}" for queue in queues]
        command += [] if concurrency is None else [f"--concurrency={concurrency}"]
        command += ["--drain"] if drain else []
        command += [f"--log-level={log_level}", *(["--log-json"] if log_json else [])]
        command += [] if url is None else [f"--database-url={url}"]
        return asyncio.run(_supervise(command, processes, drain))
    link = None if supervised is None else _supervisor(supervised[0])
    if url is not None:
        from pgconductor.settings import normalise_url

        normalise_url(url)
        os.environ["PGCONDUCTOR_DATABASE_URL"] = url
        # The way around a pooler that the environment names leads to another database.
        os.environ.pop("PGCONDUCTOR_DIRECT_URL", None)
    conductor = locate(app, app_dir)
    _check_database(conductor, url)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_work(conductor, list(queues) or None, concurrency, drain, link))


async def _supervise(command: Sequence[str], processes: int, drain: bool) -> ExitCode:
    return await Supervisor(command, processes, draining=drain).run()


def _supervisor(descriptor: int) -> socket.socket:
    """The socket to the supervisor, which is obeyed from now on."""
    from pgconductor.runtime.signals import obey

    # Ctrl-C is the supervisor's matter, also while the application is imported.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)
    obey(link)
    return link


def _check_database(conductor: Conductor, url: str | None) -> None:
    """Raise at once if there is no database, or not the one that was asked for."""
    from pgconductor.services.identity import same_address
    from pgconductor.settings import normalise_url

    own = conductor.engine.url
    if url is not None and not same_address(own, normalise_url(url)):
        raise CommandFailed(
            "the application brings a database of its own, which --database-url cannot change"
        )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        logger.debug("on asyncio's own event loop; uvloop is not installed")
        return None
    logger.debug("on uvloop")
    return uvloop.new_event_loop


async def _work(
    conductor: Conductor,
    queues: list[str] | None,
    concurrency: int | None,
    drain: bool,
    supervisor: socket.socket | None,
) -> ExitCode:
    orchestrator = conductor.orchestrator(queues, concurrency)
    reporting = asyncio.create_task(_report(orchestrator, supervisor))
    try:
        reason = await (orchestrator.drain() if drain else orchestrator.run())
    finally:
        reporting.cancel()
        await conductor.close()
    code = _CODES[reason.value]
    if code is ExitCode.OK:
        logger.info("stopped cleanly")
    else:
        logger.error("stopped: %s (exit code %d)", reason.value, code)
    if await _left_behind():
        _leave_now(code)
    return code


async def _report(orchestrator: Orchestrator, supervisor: socket.socket | None) -> None:
    """Tell the supervisor that this process works; it may have died."""
    if supervisor is not None:
        await orchestrator.started()
        with suppress(BrokenPipeError, ConnectionResetError):
            supervisor.send(READY)


async def _left_behind() -> bool:
    """Whether handlers go on that do not end, in tasks or in threads."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LAST_CHANCE)
    names = ("pgconductor-handler-", "pgconductor-step-")
    threads = [one for one in threading.enumerate() if one.name.startswith(names)]
    # An idle thread of a pool ends by itself; one in a handler may never. They are not joined in a
    # thread of the default pool: handlers may have all of those, too.
    parting = DaemonThreads(1, "parting")
    await asyncio.get_running_loop().run_in_executor(parting, _join, threads)
    parting.shutdown()
    return any(not one.done() for one in tasks) or any(one.is_alive() for one in threads)


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(_LAST_CHANCE / len(threads))


def _leave_now(code: ExitCode) -> NoReturn:
    """End the process without waiting for anybody."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
