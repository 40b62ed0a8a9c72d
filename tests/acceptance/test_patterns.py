"""Each pattern does what it says, in one piece and replayed at each wait."""

from __future__ import annotations

import pytest

from tests.acceptance.test_examples import EXAMPLES, python

PRINTED = {
    "saga.py": [
        "Rome: hotel booked",
        "Rome: flight booked",
        "Rome: car booked",
        "Rome: booked",
        "Oslo: hotel booked",
        "Oslo: hotel cancelled",
        "Oslo: not booked: no flight is left",
    ],
    "fan_out.py": ["words=5 unread=['c.txt']"],
    "polling.py": ["https://example.org/export-2026-03.csv after 3 looks"],
    "approval.py": [
        "Please approve: a new chair",
        "Reminder: a new chair",
        "approved by Ada",
    ],
    "crawl.py": ["7 pages, at most 2 at once"],
    "agent.py": ["snow in Oslo; LookupError: there is no Atlantis"],
}


def test_each_pattern_is_tested() -> None:
    assert set(PRINTED) == {path.name for path in (EXAMPLES / "patterns").glob("*.py")}


@pytest.mark.parametrize("patience", ["1", "0.0001"], ids=["in memory", "suspended"])
@pytest.mark.parametrize("name", PRINTED)
def test_a_pattern(
    name: str, patience: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCONDUCTOR_SUSPEND_AFTER", patience)
    assert python(f"patterns/{name}", url=database_url).splitlines() == PRINTED[name]
