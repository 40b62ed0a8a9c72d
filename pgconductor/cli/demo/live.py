"""The demo on a terminal, with rich."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pgconductor.cli.demo.plain import figures_text
from pgconductor.cli.demo.proof import Proof
from pgconductor.cli.demo.view import Event, Figures, View
from pgconductor.cli.output import clean

__all__ = ["LiveDisplay"]

_TONES: Final = {"plain": "", "bad": "bold red", "good": "green"}
_STATES: Final = (
    ("completed", "green"),
    ("failed", "red"),
    ("running", "yellow"),
    ("available", "bright_black"),
)
_EVENTS: Final = 9
_WIDTH: Final = 100


class LiveDisplay:
    """Redraws a panel some times a second; the report comes below it.

    Args:
        view: What is shown.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        console = Console(highlight=False)
        # Wider than this, the eye has too far to go.
        self._console = Console(highlight=False, width=min(console.width, _WIDTH))
        self._live = Live(console=self._console, get_renderable=self._screen, refresh_per_second=10)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(exc_type, exc, traceback)

    def say(self, text: str, tone: str = "plain") -> None:
        """See the protocol."""
        self.view.events.append(Event(self.view.elapsed, clean(text), tone))

    def update(self) -> None:
        """See the protocol; the panel redraws itself."""

    def _screen(self) -> RenderableType:
        view = self.view
        parts: list[RenderableType] = []
        if view.total:
            parts += [self._bar(), self._states(), Text()]
        if view.seats:
            parts += [self._workers(), Text()]
        parts += [self._line(event) for event in view.events[-_EVENTS:]]
        return Panel(
            Group(*parts),
            title=f"[bold]{view.title}",
            subtitle=f"[bright_black]{view.elapsed:.0f} s",
            border_style="cyan",
            box=box.ROUNDED,
            padding=(1, 2),
        )

    def _bar(self) -> Text:
        """One bar for all executions, coloured by state."""
        room = self._console.width - 6
        sample, total = self.view.sample, self.view.total
        bar, filled, seen = Text(), 0, 0
        for state, colour in _STATES:
            seen += sample.states.get(state, 0)
            end = room * seen // total
            bar.append("━" * (end - filled), style=colour)
            filled = end
        bar.append("━" * (room - filled), style="bright_black")
        return bar

    def _states(self) -> Table:
        view, grid = self.view, Table.grid(expand=True)
        grid.add_column()
        grid.add_column(justify="right", no_wrap=True)
        states = Text("   ").join(
            Text.assemble(("● ", colour), f"{view.sample.states.get(state, 0):,} {state}")
            for state, colour in _STATES
            if state != "failed" or state in view.sample.states  # None ever should.
        )
        sample = view.sample
        trouble = Text.assemble(
            (f"{sample.failed_once} retried", "magenta" if sample.failed_once else "bright_black"),
            "   ",
            (f"{sample.crashed} recovered", "red" if sample.crashed else "bright_black"),
        )
        speed = Text.assemble((f"{view.rate:,.0f}", "bold"), " files/s")
        grid.add_row(states, speed)
        grid.add_row(trouble, f"{sample.completed * 100 // view.total} %")
        return grid

    def _workers(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for seat in self.view.seats:
            style = {"works": "green", "killed": "bold red"}.get(seat.state, "bright_black")
            holds = f"holds {seat.holds}" if seat.holds else ""
            if seat.state == "works":
                shown = Text("▪" * seat.holds, style="yellow", no_wrap=True, overflow="crop")
            else:
                shown = Text("✗" * seat.holds, style="red", no_wrap=True, overflow="crop")
            table.add_row(
                f"worker {seat.number}", f"pid {seat.pid}", Text(seat.state, style), holds, shown
            )
        return table

    def _line(self, event: Event) -> Text:
        line = Text.assemble(
            (f"{event.at:5.1f} s  ", "bright_black"), (event.text, _TONES.get(event.tone, ""))
        )
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def report(self, proof: Proof, figures: Figures) -> None:
        """See the protocol."""
        table = Table(box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("")
        table.add_column("measured", justify="right")
        table.add_column("proven", justify="right")
        table.add_column("")
        for check in proof.checks:
            mark = Text("equal", "green") if check.ok else Text("DIFFERENT", "bold red")
            table.add_row(check.name, f"{check.measured:,}", f"{check.expected:,}", mark)
        self._console.print(table)
        self._console.print(figures_text(figures))
        for path in proof.suspects[:10]:
            self._console.print(Text(f"  wrong: {clean(path)}", "red"))
        if proof.ok:
            self._console.print("[bold green]Nothing was lost, nothing was counted twice.")
        else:
            self._console.print(
                "[bold red]FAILED: what the executions did is not what a plain count says."
            )
