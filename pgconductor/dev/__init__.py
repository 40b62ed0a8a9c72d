"""A real Postgres server for ``pgconductor dev``, ``pgconductor demo`` and tests."""

from pgconductor.dev.binaries import Binaries, find, find_all
from pgconductor.dev.errors import (
    BinariesNotFoundError,
    EmbeddedServerError,
    ServerStartError,
    ServerStateError,
)
from pgconductor.dev.server import EmbeddedServer

__all__ = [
    "Binaries",
    "BinariesNotFoundError",
    "EmbeddedServer",
    "EmbeddedServerError",
    "ServerStartError",
    "ServerStateError",
    "find",
    "find_all",
]
