"""The demo in lines, for a pipe, a log, or where rich is not installed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO

from pgconductor.cli.demo.proof import Proof
from pgconductor.cli.demo.view import Event, Figures, View
from pgconductor.cli.output import clean

__all__ = ["PlainDisplay", "figures_text"]

_EVERY_SECONDS = 1.0


class PlainDisplay:
    """A line for each event, and one a second on how far it is.

    Args:
        view: What is shown.
        stream: Where to; the default is standard output.
    """

    def __init__(self, view: View, stream: TextIO | None = None) -> None:
        self.view = view
        self._stream = stream or sys.stdout
        self._said_at = 0.0

    def __enter__(self) -> PlainDisplay:
        self._print(self.view.title)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def say(self, text: str, tone: str = "plain") -> None:
        """See the protocol."""
        event = Event(self.view.elapsed, clean(text), tone)
        self.view.events.append(event)
        self._print(f"{event.at:6.1f} s  {event.text}")

    def update(self) -> None:
        """See the protocol."""
        view = self.view
        if view.elapsed - self._said_at < _EVERY_SECONDS:
            return
        self._said_at = view.elapsed
        states = view.sample.states
        self._print(
            f"{view.elapsed:6.1f} s  {view.sample.completed:,} of {view.total:,} counted,"
            f" {view.rate:,.0f} a second; {states.get('running', 0)} running,"
            f" {states.get('available', 0):,} available, {view.sample.failed_once} retried"
        )

    def report(self, proof: Proof, figures: Figures) -> None:
        """See the protocol."""
        width = max(len(check.name) for check in proof.checks)
        self._print(f"\n{'':{width}}  {'measured':>12}  {'proven':>12}")
        for check in proof.checks:
            mark = "equal" if check.ok else "DIFFERENT"
            self._print(
                f"{check.name:{width}}  {check.measured:>12,}  {check.expected:>12,}  {mark}"
            )
        self._print(f"\n{figures_text(figures)}")
        for path in proof.suspects[:10]:
            self._print(f"  wrong: {clean(path)}")
        self._print(
            "Nothing was lost, nothing was counted twice."
            if proof.ok
            else "FAILED: what the executions did is not what a plain count says."
        )

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def figures_text(figures: Figures) -> str:
    """The numbers of the whole demo in a sentence."""
    text = (
        f"{figures.throughput:,.0f} files a second over {figures.seconds:.1f} s, "
        f"{figures.retries} retried"
    )
    if figures.crashes and figures.recovery_seconds is not None:
        text += (
            f", 1 worker killed, {figures.recovered} executions recovered"
            f" {figures.recovery_seconds:.1f} s later"
        )
    return f"{text}."
