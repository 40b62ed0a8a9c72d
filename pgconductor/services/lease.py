"""The lease of migrations: one at a time, and nobody waits for a dead one.

It is a row, not a lock of a session: it says who holds it, since when and what for, and a pooler
does not spread it. It is worth as much as the server process that took it: with that process it
ends, at once, without anybody's doing. A holder whose process stands still is ended by whoever
waits, so that nothing of it can arrive later; the guard in the revisions refuses it besides.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from pgconductor._version import __version__
from pgconductor.domain.ids import new_id
from pgconductor.domain.migrations import LeaseHolder, MigrationOptions
from pgconductor.exceptions import LeaseLost, LeaseTimeout
from pgconductor.repositories.errors import sqlstate
from pgconductor.services.gate import GateLink

__all__ = ["Lease"]

_LONGEST_PAUSE: Final = 5.0
_REPORT_EVERY: Final = 10.0


class Lease:
    """The right to migrate.

    Args:
        link: The migration's connection.
        options: How patient it is.
    """

    def __init__(self, link: GateLink, options: MigrationOptions) -> None:
        self.id = new_id()
        self.held = False
        self._link = link
        self._options = options
        self._name = f"release {__version__} on {socket.gethostname()}, pid {os.getpid()}"

    def take(self, *, still_needed: Callable[[int], bool]) -> bool:
        """Take the lease, or wait for it.

        Args:
            still_needed: Asked with the database's revision while another holds it.

        Returns:
            False if it is not needed any more: the other one has done what was to be done.

        Raises:
            LeaseTimeout: Another migration held it for all of ``lease_wait``.
        """
        began, told, pause = time.monotonic(), float("-inf"), 0.25
        watch = _Watch(self._options.stale_after)
        while True:
            if self._link.ask(lambda gate: gate.take_lease(self.id, self._name)):
                self.held = True
                return True
            holder = self._link.ask(lambda gate: gate.lease_holder())
            if not still_needed(holder.installed):
                return False
            waited = time.monotonic() - began
            left = self._options.lease_wait.total_seconds() - waited
            if holder.lease_id is not None and holder.lease_id != self.id:
                self._end_if_frozen(holder, watch)
                if left <= 0:
                    raise LeaseTimeout(_too_long(holder, waited))
                if waited - told >= _REPORT_EVERY:
                    told = waited
                    self._link.report(f"another migration is at work: {holder}; {left:.0f} s left")
            elif left <= 0:
                raise LeaseTimeout(
                    f"the gate's row was locked for {waited:.0f} s, by nobody who holds the lease"
                )
            self._link.pause(min(random.uniform(pause / 2, pause), max(left, 0.05)))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _end_if_frozen(self, holder: LeaseHolder, watch: _Watch) -> None:
        since = watch.frozen_since(holder)
        if since is None or holder.lease_id is None:
            return
        lease_id = holder.lease_id
        try:
            ended = self._link.ask(lambda gate: gate.end_holder(lease_id, since))
        except DBAPIError as error:
            if sqlstate(error) != "42501":
                raise
            # It belongs to a role that this one may watch but not end: the error names it.
            watch.patience = float("inf")
            return
        if ended:
            self._link.report(f"the migration that stood still was ended: {holder}")

    def note(self, note: str, *, floor: int | None = None, ceiling: int | None = None) -> None:
        """Tell what is done now, and renew whom the gate keeps out meanwhile.

        Args:
            note: For people.
            floor: Who does not know this revision must not register.
            ceiling: Who needs more than this revision must not register.

        Raises:
            LeaseLost: Another migration has taken it over.
        """
        noted = self._link.ask(
            lambda gate: gate.note(
                self.id, note, floor=floor, ceiling=ceiling, expires_after=self._options.intent_ttl
            )
        )
        if not noted:
            self.held = False
            raise LeaseLost("another migration has taken the lease over: this one had stood still")

    def release(self) -> None:
        """Give it up; nothing happens if it is another's by now."""
        self.held = False
        self._link.ask(lambda gate: gate.release_lease(self.id))


class _Watch:
    """Sees whether a holder's server process has done nothing for too long, by own observation.

    Args:
        patience: How long that is.
    """

    def __init__(self, patience: timedelta) -> None:
        self.patience = patience.total_seconds()
        self._seen: tuple[UUID | None, datetime | None] | None = None
        self._since = 0.0

    def frozen_since(self, holder: LeaseHolder) -> datetime | None:
        """When it was last seen to do something, if it stands still; otherwise None.

        A process that executes a statement is not idle, however long it takes.
        """
        now, seen = time.monotonic(), (holder.lease_id, holder.state_change)
        if seen != self._seen:
            self._seen, self._since = seen, now
        idle = holder.state is not None and holder.state.startswith("idle")
        return holder.state_change if idle and now - self._since >= self.patience else None


def _too_long(holder: LeaseHolder, waited: float) -> str:
    return (
        f"another migration is at work, and did not end within {waited:.0f} s: {holder}. If nobody "
        f"is behind it, end it: SELECT pg_terminate_backend({holder.pid})"
    )
