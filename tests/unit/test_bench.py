"""What is made of a benchmark's figures, and the parts that need no server."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import environments, registry
from benchmarks.__main__ import main as benchmarks_command
from pgconductor.bench.contestants import OURS, Contestant, ours_and_raw
from pgconductor.bench.cpu import seconds_of_server, seconds_of_tree
from pgconductor.bench.figures import Costs, Figures, Sample, median, percentile, ratio
from pgconductor.bench.harness import Outcome, Plan, in_order
from pgconductor.bench.measures import CONDITIONS, MEASURES, Measure
from pgconductor.bench.process import ContestantProcess, NotMeasured
from pgconductor.bench.proxy import ReadyCounter
from pgconductor.bench.report import HEADS, as_json, introductions, tables

PLAIN = Measure("plain", "Plain", "drain", 1)
UNDER = Measure("under", "Under", "drain", 1, against="plain")


def outcome(*measures: Measure, **samples: dict[str, list[float | None]]) -> Outcome:
    """Figures of each contestant, by measure and round."""
    keys = tuple(one.key for one in measures)
    contestants = [Contestant(name, measures=keys) for name in (OURS, "other", "absent")]
    found = Outcome(Plan(contestants, measures, 3, 1.0, 10))
    for measure, by_contestant in samples.items():
        for name, values in by_contestant.items():
            whom = OURS if name == "ours" else name
            found.figures.samples[measure, whom] = [
                None if one is None else Sample(one) for one in values
            ]
    for key in keys:
        found.figures.reasons[key, "absent"] = "it is not there"
    return found


# --- figures -------------------------------------------------------------------------------------


def test_the_median_of_what_is_known() -> None:
    assert median([3.0, None, 1.0, 2.0]) == 2.0
    assert median([None, None]) is None
    assert median([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_one_of_the_values(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(one <= found for one in values) * 100 >= percent * len(values)
    assert sum(one < found for one in values) * 100 < percent * len(values)


def test_a_ratio_compares_within_rounds() -> None:
    # The machine was ten times slower in the second round; the ratio does not show it.
    assert ratio([100.0, 10.0, 100.0], [50.0, 5.0, 50.0]) == 2.0
    assert ratio([100.0, None, 30.0], [None, 5.0, 10.0]) == 3.0
    assert ratio([1.0], [0.0]) is None
    assert ratio([], [1.0]) is None


def test_a_summary() -> None:
    figures = Figures()
    costs = [Costs(wal_bytes=one, server_us=None) for one in (1.0, 9.0, 2.0)]
    samples = zip((10.0, 30.0, 20.0), costs, strict=True)
    figures.samples["m", "a"] = [*(Sample(value, cost, p95=value) for value, cost in samples), None]
    figures.samples["m", OURS] = [Sample(20.0), Sample(60.0), Sample(40.0)]
    figures.counted["m", "a"] = Costs(commits=2.0, round_trips=3.0)
    found = figures.summary("m", "a", OURS)
    assert found is not None
    assert (found.median, found.low, found.high, found.ratio, found.p95) == (20, 10, 30, 2, 20)
    assert found.costs == Costs(wal_bytes=2.0, commits=2.0, round_trips=3.0)
    assert figures.summary("m", "nobody", OURS) is None


def test_every_round_begins_with_another() -> None:
    contestants = [Contestant(name) for name in "abc"]
    orders = ["".join(one.name for one in in_order(contestants, n)) for n in range(4)]
    assert orders == ["abc", "bca", "cab", "abc"]
    assert in_order([], 1) == []


def test_contestants_and_measures_fit() -> None:
    keys = {one.key for one in (*MEASURES, *CONDITIONS)}
    assert len(keys) == len(MEASURES) + len(CONDITIONS)
    contestants = ours_and_raw()
    assert {one for contestant in contestants for one in contestant.measures} == keys
    assert len({one.name for one in contestants}) == len(contestants)
    assert {one.against for one in CONDITIONS} - {""} <= keys


# --- peers ---------------------------------------------------------------------------------------


def test_every_peer_has_its_file_and_every_file_its_peer() -> None:
    folder = Path(registry.__file__).parent / "peers"
    files = {one.stem.replace("_", "-") for one in folder.iterdir() if one.is_file()}
    assert files - {"serve"} == set(registry.PEERS)
    keys = {one.key for one in MEASURES}
    for peer in registry.PEERS.values():
        assert set(peer.measures) <= keys
        text = next(one for one in folder.iterdir() if one.stem.replace("_", "-") == peer.name)
        assert f'DISTRIBUTION = "{peer.name}"' in text.read_text(encoding="utf-8")


def test_what_cannot_be_installed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise environments.CannotInstall("no such package")

    monkeypatch.setattr(registry, "python_environment", refuse)
    found = registry.PEERS["pgqueuer"].contestant()
    assert (found.unavailable, found.arguments) == ("no such package", ())
    assert "drain" in found.measures


def test_only_peers_that_exist() -> None:
    ended = CliRunner().invoke(benchmarks_command, ["--peers", "nobody"])
    assert ended.exit_code == 2
    assert "no peer 'nobody'" in ended.output


# --- report --------------------------------------------------------------------------------------


def test_the_table() -> None:
    found = outcome(
        PLAIN,
        UNDER,
        plain={"ours": [100.0, 200.0, 300.0], "other": [1000.0, 1000.0, 1000.0]},
        under={"ours": [50.0, 100.0, 150.0], "other": [None]},
    )
    (title, rows), (_, under) = tables(found)
    assert title == "Plain, executions/s"
    assert [row[0] for row in rows] == ["other", OURS, "absent"]
    assert rows[0][1:5] == ("1,000", "1,000", "1,000", "0.2")
    assert rows[2] == ("absent", "not measured: it is not there")
    assert under[0][HEADS.index("÷ without")] == "0.5"
    assert all(len(row) == len(HEADS) for row in rows[:2])


def test_less_is_better_for_delays() -> None:
    delays = Measure("delays", "Delays", "pick_up", 1, "ms")
    ((title, rows),) = tables(outcome(delays, delays={"ours": [2.0], "other": [1.0]}))
    assert title == "Delays, ms, less is better"
    assert [row[0] for row in rows[:2]] == ["other", OURS]


def test_the_json() -> None:
    found = as_json(outcome(PLAIN, plain={"ours": [4.0, None, 2.0], "other": [1.0, 1.0, 1.0]}))
    entries = found["measures"]["plain"]["contestants"]
    assert entries[OURS]["values"] == [4.0, None, 2.0]
    assert (entries[OURS]["median"], entries[OURS]["ratio"]) == (3.0, 1.0)
    assert entries["other"]["ratio"] == 3.0
    assert entries["absent"] == {"values": [], "not_measured": "it is not there"}


def test_what_is_alike_is_introduced_once() -> None:
    found = outcome(PLAIN)
    same = {"version": "1", "settings": "as it comes"}
    found.about = {"a": same, "b": same, "c": {"version": "2", "settings": "as it comes"}}
    assert list(introductions(found)) == ["a 1: as it comes", "c 2: as it comes"]


# --- round trips ---------------------------------------------------------------------------------


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@given(
    st.lists(st.tuples(st.sampled_from([b"Z", b"D", b"C"]), st.binary(max_size=20))),
    st.lists(st.integers(1, 30)),
)
def test_round_trips_are_found_however_the_stream_is_cut(
    messages: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(message(kind, body) for kind, body in messages)
    counter = ReadyCounter()
    for cut in cuts:
        counter.feed(stream[:cut])
        stream = stream[cut:]
    counter.feed(stream)
    assert counter.count == sum(kind == b"Z" for kind, _ in messages)


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="processor time is read from /proc")
def test_processor_time() -> None:
    used = seconds_of_tree(os.getpid())
    assert used is not None
    assert used > 0
    burn = "n = 0\nwhile n < 5_000_000: n += 1"
    before = seconds_of_server(os.getpid())
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = seconds_of_server(os.getpid())
    assert before is not None
    assert after is not None
    assert after > before  # a child that has ended counts
    assert seconds_of_tree(2**30) is None
    assert seconds_of_server(None) is None


def test_nothing_is_known_where_there_are_no_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pgconductor.bench.cpu._PROC", tmp_path)
    assert seconds_of_tree(os.getpid()) is None


async def refused(code: str) -> str:
    """Why a contestant of this code cannot be measured."""
    contestant = Contestant("x", (sys.executable, "-c", code))
    with pytest.raises(NotMeasured) as caught:
        async with ContestantProcess(contestant) as process:
            await process.ask("open")
    return str(caught.value)


async def test_a_contestant_that_fails_says_why() -> None:
    ended = await refused("import sys; sys.exit('no such engine')")
    assert ended == "its process has ended: no such engine"
    assert await refused('input(); print(\'{"error": "broken"}\')') == "broken"
    assert await refused('input(); print(\'{"missing": "open"}\')') == "it has none"
    with pytest.raises(NotMeasured, match="does not start"):
        async with ContestantProcess(Contestant("x", ("/no/such/program",))):
            pass
