"""Who looks for what attempts wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from pgconductor.runtime.waits import Waits

__all__ = ["Sentry"]


class Sentry(Protocol):
    """Who looks whether what is waited for has come."""

    def watch(self, waits: Waits, child_id: UUID | None) -> None:
        """Tell these waits when what they wait for has come, for instance a child."""
        ...

    def forget(self, waits: Waits) -> None:
        """They wait for nothing any more."""
        ...

    def look(self, execution_id: UUID) -> None:
        """Something may have come."""
        ...

    def keeps(self, waits: Waits, seconds: float) -> bool:
        """Whether it has these leave memory itself when so many seconds have passed."""
        ...
