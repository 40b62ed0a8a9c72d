"""A real `alembic upgrade head` that freezes at a marked point, until it is sent a line.

``FREEZE`` names the point: ``leasing`` (before the lease is asked for), ``leased``, ``swept``
(those that have to leave were asked), ``revision`` (inside the transaction of a revision, which
calls :func:`freeze` itself), ``releasing``, or ``none``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from alembic.config import main

from pgconductor.services.drain import Drain
from pgconductor.services.lease import Lease

POINT = os.environ.get("FREEZE", "none")


frozen: set[str] = set()


def freeze(point: str) -> None:
    if point == POINT and point not in frozen:
        frozen.add(point)
        print("frozen", flush=True)
        sys.stdin.readline()


def before(kind: type, name: str, point: str) -> None:
    original = getattr(kind, name)

    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        freeze(point)
        return original(self, *args, **options)

    setattr(kind, name, wrapped)


def after(kind: type, name: str, point: str) -> None:
    original = getattr(kind, name)

    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        result = original(self, *args, **options)
        freeze(point)
        return result

    setattr(kind, name, wrapped)


if __name__ == "__main__":
    before(Lease, "take", "leasing")
    after(Lease, "take", "leased")
    after(Drain, "_ask", "swept")
    before(Lease, "release", "releasing")
    main(argv=sys.argv[1:])
