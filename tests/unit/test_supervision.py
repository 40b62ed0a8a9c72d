"""What the supervisor of worker processes decides."""

from __future__ import annotations

import signal
from itertools import permutations

import click
import pytest

from pgconductor.cli import ExitCode
from pgconductor.cli.processes import MOST, process_count
from pgconductor.cli.supervision import Restarts, Verdict, judge, meaning, said, worst

KILLED = -int(signal.SIGKILL)
CODES = [*ExitCode, KILLED, -int(signal.SIGSEGV), 99]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("draining", [True, False])
@pytest.mark.parametrize("proven", [True, False])
def test_whoever_was_asked_to_stop_is_done(code: int, draining: bool, proven: bool) -> None:
    assert judge(code, stopping=True, draining=draining, proven=proven) is Verdict.DONE


@pytest.mark.parametrize("proven", [True, False])
def test_a_clean_end_is_the_end_of_a_drain_only(proven: bool) -> None:
    assert judge(0, stopping=False, draining=True, proven=proven) is Verdict.DONE
    assert judge(0, stopping=False, draining=False, proven=proven) is Verdict.RESTART


@pytest.mark.parametrize(
    "code",
    [
        KILLED,
        -int(signal.SIGSEGV),
        99,
        ExitCode.ERROR,
        ExitCode.FORCED,
        ExitCode.EVICTED,
        ExitCode.UNREACHABLE,
        ExitCode.NOT_PRIMARY,
        ExitCode.INTERRUPTED,
    ],
)
@pytest.mark.parametrize("draining", [True, False])
def test_a_crash_is_followed_by_a_start_once_one_has_worked(code: int, draining: bool) -> None:
    assert judge(code, stopping=False, draining=draining, proven=True) is Verdict.RESTART
    assert judge(code, stopping=False, draining=draining, proven=False) is Verdict.GIVE_UP


@pytest.mark.parametrize(
    "code",
    [
        ExitCode.USAGE,
        ExitCode.SCHEMA_TOO_NEW,
        ExitCode.SCHEMA_BEHIND,
        ExitCode.PRIVILEGE,
        ExitCode.SHUTDOWN,
    ],
)
@pytest.mark.parametrize("proven", [True, False])
def test_what_another_start_cannot_mend_ends_all(code: int, proven: bool) -> None:
    assert judge(code, stopping=False, draining=False, proven=proven) is Verdict.GIVE_UP


def test_the_worst_code_stands_for_all() -> None:
    assert worst([]) is ExitCode.OK
    for codes in permutations([0, ExitCode.EVICTED, ExitCode.FORCED]):
        assert worst(codes) is ExitCode.FORCED
    assert worst([0, KILLED, ExitCode.FORCED]) is ExitCode.ERROR
    assert worst([ExitCode.FORCED, ExitCode.SCHEMA_BEHIND]) is ExitCode.SCHEMA_BEHIND


def test_what_is_logged_of_an_end() -> None:
    assert said(KILLED) == "was killed by SIGKILL"
    assert said(-60) == "was killed by signal 60"
    assert said(58) == "ended with exit code 58 (EVICTED)"
    assert said(99) == "ended with exit code 99"
    assert meaning(99) is meaning(KILLED) is ExitCode.ERROR


def test_pauses_grow_to_a_limit() -> None:
    most = Restarts(first=1, longest=8, lasting=60, chance=lambda: 1.0)
    assert [most.pause(lived=1) for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    least = Restarts(first=1, longest=8, lasting=60, chance=lambda: 0.0)
    assert [least.pause(lived=1) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]


def test_a_process_that_lasted_begins_anew() -> None:
    restarts = Restarts(first=1, longest=8, lasting=60, chance=lambda: 1.0)
    assert [restarts.pause(lived) for lived in (1, 1, 60, 1)] == [1, 2, 1, 2]
    # However often it dies: no number is too large.
    assert max(restarts.pause(lived=0) for _ in range(2_000)) == 8


def test_the_number_of_processes() -> None:
    assert process_count("1") == 1
    assert process_count(str(MOST)) == MOST
    assert 1 <= process_count("auto") <= MOST
    for wrong in ("0", "-1", str(MOST + 1), "many", ""):
        with pytest.raises(click.BadParameter, match="from 1 to"):
            process_count(wrong)
