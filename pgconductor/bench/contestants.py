"""Who is measured: what each contestant is called, how it is started, and where it takes part."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["OURS", "Contestant", "ours_and_raw", "python_arguments"]

OURS = "pgconductor"
_HERE = Path(__file__).resolve().parent
_ALL = ("invoke_one", "bulk", "bulk_large", "drain", "drain_two", "pick_up", "steps", "chain")
_CONDITIONS = ("drain_retained", "drain_future", "drain_large", "drain_held")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of each table that it takes part in.

    Attributes:
        name: Its name there.
        arguments: The command that starts its process.
        options: What distinguishes it from others with the same command.
        measures: The keys of the measures that it takes part in.
        share: How much of the work it is given, so that a slow one takes no longer than others.
        environment: Variables of its process, beside ours.
        unavailable: Why it cannot be measured at all; empty if it can.
    """

    name: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    measures: tuple[str, ...] = _ALL
    share: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    unavailable: str = ""


def python_arguments(python: str | Path, contestant: Path) -> tuple[str, ...]:
    """The command that serves a contestant written in Python.

    Args:
        python: The interpreter of its environment.
        contestant: Its file; its folder is not imported from.
    """
    return (str(python), "-P", str(_HERE / "serve.py"), str(contestant))


def ours_and_raw() -> list[Contestant]:
    """Ourselves, and bare asyncpg in the ways that bound what an engine can reach."""
    ours = python_arguments(sys.executable, _HERE / "ours.py")
    raw = python_arguments(sys.executable, _HERE / "raw.py")
    drains = ("drain", "drain_two", *_CONDITIONS)
    # A checkout need not be installed.
    path = os.pathsep.join(filter(None, [str(_HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    found = [
        Contestant(OURS, ours, measures=(*_ALL, *_CONDITIONS)),
        Contestant("raw", raw, measures=("invoke_one", "pick_up", "chain")),
        Contestant("raw, unnest", raw, measures=("bulk", "bulk_large")),
        Contestant("raw, COPY", raw, {"copy": True}, ("bulk", "bulk_large")),
        Contestant("raw, batches of 1", raw, {"batch": 1}, ("drain",), 0.1),
        Contestant("raw, batches of 10", raw, {"batch": 10}, ("drain",), 0.5),
        Contestant("raw, batches of 100", raw, {"batch": 100}, drains),
        Contestant("raw, batches of 1,000", raw, {"batch": 1_000}, ("drain", "drain_two")),
        Contestant("raw, NOTIFY alone", raw, {"wake_only": True}, ("pick_up",)),
        Contestant("raw, one connection", raw, {"connections": 1}, ("steps",)),
        Contestant("raw, eight connections", raw, {"connections": 8}, ("steps",)),
    ]
    return [replace(one, environment={"PYTHONPATH": path}) for one in found]
