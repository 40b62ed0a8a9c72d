"""Time that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgconductor.domain.limits import check_run_at

__all__ = ["VirtualClock"]


class VirtualClock:
    """The clock of a :class:`~pgconductor.testing.FakeDatabase`.

    Args:
        start: The first instant, with a time zone; the default is now.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = datetime.now(UTC) if start is None else check_run_at(start, "start")

    def now(self) -> datetime:
        """The instant at which the clock stands."""
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Move the clock.

        Args:
            by: How far; a negative value sets it back, as a failover may do.

        Returns:
            Where it stands now.
        """
        self._now += by
        return self._now

    def __repr__(self) -> str:
        return f"VirtualClock({self._now.isoformat()})"
