"""Our end of the keeper process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

from pgconductor.dev.account import Account
from pgconductor.dev.errors import EmbeddedServerError, ServerStartError

StopMode = Literal["fast", "immediate"]

SIGNALS: Mapping[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_MAIN = Path(__file__).with_name("keeper_main.py")


class KeeperGoneError(EmbeddedServerError):
    """The keeper process of a server has been killed."""

    def __init__(self) -> None:
        super().__init__("The keeper process of the embedded server is gone.")


class Keeper:
    """A keeper process, in a session of its own so that a terminal's Ctrl-C passes it by.

    Args:
        mode: How the keeper stops the server when we die.
        lock: A file descriptor that the keeper holds open as long as it lives.
    """

    def __init__(self, mode: StopMode, lock: int | None = None) -> None:
        self._requests = 0
        self._busy = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", str(_MAIN), str(os.getpid()), str(int(SIGNALS[mode]))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
        self._input = _opened(self._process.stdin)
        self._output = _opened(self._process.stdout)

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def make_directory(self, parent: Path, *, prefix: str, mode: int) -> Path:
        """Make a directory that the keeper removes at the end.

        Args:
            parent: Where to make it.
            prefix: How its name begins.
            mode: Its permissions.

        Returns:
            The new directory.

        Raises:
            EmbeddedServerError: It could not be made.
        """
        answer = self._request("make_directory", parent=str(parent), prefix=prefix, mode=mode)
        return Path(answer["path"])

    def remove_at_end(self, path: Path) -> None:
        """Have a file or directory removed at the end.

        Args:
            path: What to remove; it need not exist.

        Raises:
            KeeperGoneError: The keeper has been killed.
        """
        self._request("remove_at_end", path=str(path))

    def call(
        self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, account: Account
    ) -> int:
        """Start a program and wait for its end; it does not survive us.

        Args:
            argv: The program and its arguments.
            env: Its environment.
            log: Where its output is appended.
            account: Who it belongs to.

        Returns:
            Its exit code, negative for a signal.

        Raises:
            EmbeddedServerError: It could not be started.
        """
        spec = _spec(argv, env, log, account)
        code: int = self._request("call", **spec)["code"]
        return code

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        account: Account,
        pid_file: Path,
    ) -> int:
        """Start Postgres and wait until it accepts connections.

        Args:
            argv: The program and its arguments.
            env: Its environment.
            log: Where its output is appended.
            account: Who it belongs to.
            pid_file: The file in which it reports its state.

        Returns:
            The process id of the postmaster.

        Raises:
            ServerStartError: It did not come up. The log is the caller's to add.
            KeeperGoneError: The keeper has been killed.
        """
        spec = _spec(argv, env, log, account)
        try:
            answer = self._request("start", pid_file=str(pid_file), **spec)
        except KeeperGoneError:
            raise
        except EmbeddedServerError as error:
            raise ServerStartError(str(error)) from None
        pid: int = answer["pid"]
        return pid

    def stop(self, mode: StopMode) -> None:
        """Stop Postgres and wait until it is gone.

        Args:
            mode: Roll back and end (``fast``), or drop everything (``immediate``).

        Raises:
            KeeperGoneError: The keeper has been killed.
        """
        self._request("stop", number=int(SIGNALS[mode]))

    def end(self, mode: StopMode) -> None:
        """Stop Postgres, remove what is temporary, end the keeper.

        Args:
            mode: As for ``stop``.

        Raises:
            KeeperGoneError: The keeper has been killed, so that nothing was stopped or removed.
        """
        with self._busy:
            # Gone, or told already by a call that was interrupted.
            with suppress(BrokenPipeError, ValueError):
                self._send("end", number=int(SIGNALS[mode]))
            # Apart, for what could not be sent would be sent again when the pipe is collected.
            with suppress(BrokenPipeError):
                self._input.close()
            self._process.wait()
            self._output.close()
        if self._process.returncode != 0:
            raise KeeperGoneError

    def _request(self, action: str, **parameters: Any) -> dict[str, Any]:
        with self._busy:
            try:
                number = self._send(action, **parameters)
            except (BrokenPipeError, ValueError):
                raise KeeperGoneError from None
            answer = self._answer_to(number)
        if "error" in answer:
            raise EmbeddedServerError(answer["error"])
        return answer

    def _answer_to(self, number: int) -> dict[str, Any]:
        while line := self._output.readline():
            answer: dict[str, Any] = json.loads(line)
            # An earlier request that was interrupted may have left its answer behind.
            if answer["request"] == number:
                return answer
        raise KeeperGoneError

    def _send(self, action: str, **parameters: Any) -> int:
        self._requests += 1
        request = {"request": self._requests, "action": action, **parameters}
        self._input.write(json.dumps(request).encode() + b"\n")
        self._input.flush()
        return self._requests


def _opened(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("Not a pipe.")
    return pipe


def _spec(
    argv: Sequence[str], env: Mapping[str, str], log: Path, account: Account
) -> dict[str, Any]:
    return {
        "argv": list(argv),
        "env": dict(env),
        "log": str(log),
        "uid": account.uid,
        "gid": account.gid,
    }
