"""The keeper: the small process that owns a server and ends with its parent.

It is started by path, with the standard library alone. Being the parent of initdb and of
Postgres, it knows for certain which processes to end; being told of every directory that it
makes, it knows what to remove. It reads one JSON request a line on its input and answers with
one a line on its output. When the input ends, for whatever reason, the server is stopped and
the temporary directories are removed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

_TICK = 0.005
_IDLE = 0.5
_PATIENCE = 60.0


class ParentGoneError(Exception):
    """The process that this keeper works for has ended."""


class RequestFailedError(Exception):
    """A request could not be carried out; the message says why."""


class Channel:
    """Requests from the parent, answers to it, and the news of its death."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._buffer = b""

    def pause(self, seconds: float) -> None:
        """Wait for input or for time to pass.

        Raises:
            ParentGoneError: The parent has ended.
        """
        # The pipe tells at once, unless a forked sibling of ours still holds its other end.
        if os.getppid() != self._parent:
            raise ParentGoneError
        readable, _, _ = select.select([0], [], [], seconds)
        if readable:
            chunk = os.read(0, 65536)
            if not chunk:
                raise ParentGoneError
            self._buffer += chunk

    def receive(self) -> dict[str, Any]:
        """Return the next request; raise ParentGoneError when there will be none."""
        while b"\n" not in self._buffer:
            self.pause(_IDLE)
        line, self._buffer = self._buffer.split(b"\n", 1)
        request: dict[str, Any] = json.loads(line)
        return request

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Send an answer; raise ParentGoneError when nobody reads it any more."""
        try:
            os.write(1, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            raise ParentGoneError from None


class Keeper:
    """Carries out the requests. Each public method is one, named by the parent."""

    def __init__(self, channel: Channel, last_signal: int) -> None:
        self._channel = channel
        self._server: subprocess.Popen[bytes] | None = None
        self._helper: subprocess.Popen[bytes] | None = None
        self._temporary: list[str] = []
        self.last_signal = last_signal

    def make_directory(self, parent: str, prefix: str, mode: int) -> dict[str, Any]:
        """Make a temporary directory, to be removed at the end."""
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        self._temporary.append(path)
        Path(path).chmod(mode)
        return {"path": path}

    def remove_at_end(self, path: str) -> dict[str, Any]:
        """Remember a file or directory to be removed at the end."""
        self._temporary.append(path)
        return {}

    def call(self, **spec: Any) -> dict[str, Any]:
        """Start a program and wait for its end."""
        self._helper = helper = self._spawn(**spec)
        self._wait(helper, _PATIENCE)
        if helper.poll() is None:
            os.killpg(helper.pid, signal.SIGKILL)
            helper.wait()
        self._helper = None
        return {"code": helper.returncode}

    def start(self, pid_file: str, **spec: Any) -> dict[str, Any]:
        """Start the server and wait until it accepts connections."""
        if self._server is not None and self._server.poll() is None:
            raise RequestFailedError("The server runs already.")
        self._server = server = self._spawn(**spec)
        ready = self._wait(server, _PATIENCE, lambda: _ready(pid_file, server.pid))
        if not ready:
            code = server.poll()
            self._end_server(signal.SIGQUIT)
            raise RequestFailedError(
                f"Postgres was not ready after {_PATIENCE:.0f} s."
                if code is None
                else f"Postgres ended with code {code} instead of starting."
            )
        return {"pid": server.pid}

    def stop(self, number: int) -> dict[str, Any]:
        """Stop the server by a signal, and wait until it is gone."""
        server = self._server
        if server is not None and server.poll() is None:
            server.send_signal(number)
            self._wait(server, _PATIENCE)
        self._end_server(signal.SIGQUIT)
        return {}

    def end(self) -> None:
        """Stop everything and remove everything temporary."""
        # The state file goes first: nobody shall attach to a server that is about to stop.
        for path in self._temporary:
            with suppress(OSError):
                Path(path).unlink()
        if self._helper is not None and self._helper.poll() is None:
            os.killpg(self._helper.pid, signal.SIGKILL)
            self._helper.wait()
        self._end_server(self.last_signal)
        for path in reversed(self._temporary):
            _remove(path)

    def _spawn(
        self,
        argv: list[str],
        env: dict[str, str],
        log: str,
        uid: int | None,
        gid: int | None,
    ) -> subprocess.Popen[bytes]:
        with Path(log).open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our parent's commands
                argv,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                umask=0o077,
            )

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        seconds: float,
        condition: Callable[[], bool] = lambda: False,
    ) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            if process.poll() is not None:
                return False
            self._channel.pause(_TICK)
        return False

    def _end_server(self, number: int) -> None:
        if self._server is None:
            return
        for last_word, patience in ((number, _PATIENCE), (signal.SIGQUIT, 10), (signal.SIGKILL, 5)):
            if self._server.poll() is not None:
                break
            self._server.send_signal(last_word)
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(patience)
        self._server = None


def _ready(pid_file: str, pid: int) -> bool:
    try:
        lines = Path(pid_file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _remove(path: str) -> None:
    # Backends that lost their postmaster may still be writing for a moment.
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.05)


def _serve(channel: Channel, keeper: Keeper) -> None:
    while True:
        request = channel.receive()
        number, action = request.pop("request"), request.pop("action")
        if action == "end":
            keeper.last_signal = request["number"]
            return
        try:
            answer = getattr(keeper, action)(**request)
        except ParentGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - told to the parent
            answer = {"error": str(error) or repr(error)}
        channel.answer({"request": number, **answer})


def _ignored(_number: int, _frame: FrameType | None) -> None:
    pass


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise ParentGoneError


def main() -> None:
    """Keep one server. The arguments are the parent's process id and the last signal."""
    # Handlers rather than SIG_IGN, which Postgres would inherit.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignored)
    signal.signal(signal.SIGTERM, _terminated)
    channel = Channel(int(sys.argv[1]))
    keeper = Keeper(channel, int(sys.argv[2]))
    try:
        _serve(channel, keeper)
    except ParentGoneError:
        pass
    finally:
        signal.signal(signal.SIGTERM, _ignored)
        keeper.end()


if __name__ == "__main__":
    main()
