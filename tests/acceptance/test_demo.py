"""The demo: it proves what it says, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no stubs
import pytest

from pgconductor.cli import ExitCode
from pgconductor.cli.demo.counting import Counts, count, read_folder
from pgconductor.cli.demo.proof import FileRow, Proof, prove
from tests.acceptance.test_cli_support import environment
from tests.support.processes import Child, Children
from tests.support.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty files, and what is not to be counted."""
    found = tmp_path / "files"
    found.mkdir()
    for number in range(60):
        text = f"word{number} und wörter, " * (number + 1) + "\n= (x + 1) * 2;\n"
        (found / f"file{number:02}.txt").write_text(text, encoding="utf-8")
    (found / "binary").write_bytes(b"\0\1")
    (found / ".hidden").write_text("hidden")
    (found / "link.txt").symlink_to(found / "file00.txt")
    return found


async def demo(children: Children, *arguments: str | Path) -> Child:
    return await children.start("-m", "pgconductor", "demo", *arguments, env=environment())


def descendants(child: Child) -> list[psutil.Process]:
    return list(psutil.Process(child.pid).children(recursive=True))


# --- the whole -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.faults
async def test_totals_are_proven_through_a_crash(children: Children, folder: Path) -> None:
    child = await demo(children, folder, "--json")
    assert await child.wait(90) == ExitCode.OK, child.errors
    told = json.loads("\n".join(child.lines))
    assert told["ok"] is True
    assert told["crashes"] == 1
    assert told["recovered"] >= 1
    assert told["retries"] >= 1
    words = sum(count(one.path).words for one in read_folder(folder, 100))
    assert told["totals"]["words"] == {"measured": words, "expected": words}
    assert told["totals"]["files"] == {"measured": 60, "expected": 60}
    assert any("kill -9" in line for line in child.errors)


@pytest.mark.slow
async def test_on_a_database_that_is_there(
    children: Children, folder: Path, database_url: str
) -> None:
    options = ("--files", "20", "--no-kill", "--pause", "0", "--workers", "1")
    child = await demo(children, folder, *options, "--database-url", database_url)
    assert await child.wait(60) == ExitCode.OK, child.errors
    assert any("Nothing was lost" in line for line in child.lines)


async def test_a_database_without_our_schema(
    children: Children, folder: Path, empty_database_url: str
) -> None:
    child = await demo(children, folder, "--database-url", empty_database_url)
    assert await child.wait() == ExitCode.SCHEMA_BEHIND
    assert "pgconductor migrate" in child.errors[-1]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("end", [Child.kill, Child.terminate, Child.interrupt])
async def test_nothing_is_left_behind(children: Children, folder: Path, end: object) -> None:
    child = await demo(children, folder, "--pause", "1")
    working = re.compile(r"; [1-9]\d* running")
    await eventually(lambda: any(working.search(line) for line in child.lines), timeout=30)
    left = descendants(child)
    # The keeper, the server, two workers, and the server's own.
    assert len(left) >= 4
    homes = {
        Path(found.group(1))
        for process in left
        for found in [re.search(rf"({tempfile.gettempdir()}/pgc-\w+)", _command(process))]
        if found
    }
    assert homes
    assert callable(end)
    end(child)
    code = await child.wait()
    assert code == (-9 if end is Child.kill else ExitCode.INTERRUPTED)
    await eventually(lambda: not any(_lives(one) for one in left), timeout=20)
    await eventually(lambda: not any(home.exists() for home in homes), timeout=10)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # One of the server's own, which come and go.
        return ""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_on_a_terminal(folder: Path) -> None:
    pytest.importorskip("rich")
    ours, theirs = os.openpty()
    options = ("--files", "30", "--no-kill", "--pause", "0.05", "--workers", "1")
    with subprocess.Popen(
        [sys.executable, "-m", "pgconductor", "demo", folder, *options],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment(TERM="xterm", COLUMNS="80"),
        cwd="/",
    ) as process:
        os.close(theirs)
        shown = bytearray()
        # The other end is closed when the process and its children have ended: EIO.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        assert process.wait(60) == 0, shown.decode()
    text = shown.decode()
    assert "worker 1" in text
    assert "Nothing was lost" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"


# --- its parts -----------------------------------------------------------------------------------


def test_which_files_are_taken(folder: Path) -> None:
    found = read_folder(folder, 100)
    assert len(found) == 60
    assert [one.path for one in found] == sorted(one.path for one in found)
    some = read_folder(folder, 7)
    assert len({one.path for one in some}) == 7
    assert some == read_folder(folder, 7)


def test_what_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"zwei W\xc3\xb6rter: a_b\n\xff")
    assert count(str(file)) == Counts(files=1, words=4, symbols=3, lines=1, bytes=19)


PLAIN = {name: Counts(files=1, words=number) for number, name in enumerate("abcd", start=1)}
TOTAL = Counts(files=4, words=10)


def row(path: str, *, state: str = "completed", attempts: int = 1, crashes: int = 0) -> FileRow:
    return FileRow(path, state, attempts, crashes, PLAIN[path] if state == "completed" else None)


RIGHT = [row("a", attempts=2), row("b", crashes=1), row("c"), row("d")]


def proof(rows: list[FileRow], summary: Counts | None = TOTAL) -> Proof:
    return prove(rows, summary, PLAIN, failed_once={"a"}, recovered=1)


def test_the_proof_holds() -> None:
    assert proof(RIGHT).ok


@pytest.mark.parametrize(
    ("rows", "suspect"),
    [
        (RIGHT[:3], "d"),
        ([*RIGHT, row("d")], "d"),
        ([*RIGHT[:3], row("c")], "d"),
        ([*RIGHT[:3], row("d", state="failed")], "d"),
        ([*RIGHT[:3], row("d", state="available")], "d"),
        ([*RIGHT[:3], row("d", attempts=2)], "d"),
        ([row("a"), *RIGHT[1:]], "a"),
        ([*RIGHT[:3], FileRow("d", "completed", 1, 0, Counts(files=1, words=5))], "d"),
    ],
    ids=[
        "lost",
        "doubled",
        "swapped",
        "failed",
        "open",
        "tried twice",
        "not retried",
        "miscounted",
    ],
)
def test_the_proof_finds_what_is_wrong(rows: list[FileRow], suspect: str) -> None:
    found = proof(rows)
    assert not found.ok
    assert suspect in found.suspects


def test_the_proof_compares_the_summary_and_the_crash() -> None:
    assert not proof(RIGHT, Counts(files=4, words=11)).ok
    assert not proof(RIGHT, None).ok
    assert not proof([row("a", attempts=2), row("b"), row("c"), row("d")]).ok
