"""The peers: what each is called, what it needs, and how much of the work it gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import (
    CannotInstall,
    node,
    node_environment,
    python_environment,
)
from pgconductor.bench.contestants import Contestant, python_arguments

__all__ = ["PEERS", "Peer"]

_FOLDER = Path(__file__).parent / "peers"
_QUEUE = ("invoke_one", "bulk", "drain", "drain_two", "pick_up")
_DURABLE = (*_QUEUE, "steps")


@dataclass(frozen=True)
class Peer:
    """Somebody else's engine.

    Attributes:
        name: Its name, and that of its file in ``peers/``.
        requirements: What to install.
        measures: What it can do.
        share: How much of the work it gets: about its speed, beside the quickest.
        node: Whether it is written for Node.
        at_least: The oldest Python that will do.
    """

    name: str
    requirements: tuple[str, ...]
    measures: tuple[str, ...] = _QUEUE
    share: float = 1.0
    node: bool = False
    at_least: tuple[int, int] = (3, 11)

    def contestant(self) -> Contestant:
        """Make its environment if need be; what cannot be installed is not measured."""
        try:
            arguments = self._node() if self.node else self._python()
        except CannotInstall as error:
            return Contestant(self.name, measures=self.measures, unavailable=str(error))
        return Contestant(self.name, arguments, measures=self.measures, share=self.share)

    def _python(self) -> tuple[str, ...]:
        python = python_environment(self.name, list(self.requirements), self.at_least)
        return python_arguments(python, _FOLDER / f"{self.name.replace('-', '_')}.py")

    def _node(self) -> tuple[str, ...]:
        folder = node_environment(self.name, list(self.requirements))
        return (node(), str(_FOLDER / "serve.mjs"), str(_FOLDER / f"{self.name}.mjs"), str(folder))


_LIST = (
    Peer("pgqueuer", ("pgqueuer[asyncpg]",)),
    Peer("procrastinate", ("procrastinate",), share=0.1),
    Peer("oban", ("oban",), share=0.1, at_least=(3, 12)),
    Peer("absurd-sdk", ("absurd-sdk", "absurdctl"), _DURABLE, share=0.1),
    Peer("dbos", ("dbos",), _DURABLE, share=0.05),
    Peer("awa-pg", ("awa-pg",), share=0.2),
    Peer("pgtask", ("pgtask", "psycopg[binary]"), _DURABLE, share=0.1),
    Peer("graphile-worker", ("graphile-worker",), node=True),
    Peer("pg-boss", ("pg-boss",), node=True),
)
PEERS = {peer.name: peer for peer in _LIST}
