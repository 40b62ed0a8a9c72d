"""Which contender of a race something is begun for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Final

__all__ = ["Scope"]

#: The innermost one that this goes on in.
_current: Final[ContextVar[Scope | None]] = ContextVar("pgconductor_contender", default=None)


class Scope:
    """All that is begun for one contender of a race, in whatever asyncio tasks it makes."""

    def __init__(self) -> None:
        #: What was begun there.
        self.keys: set[str] = set()
        self._outer = _current.get()
        self._lost = False
        self._beginning = 0
        self._calm = asyncio.Event()
        self._calm.set()

    @staticmethod
    def all_current() -> Iterator[Scope]:
        """Those that this goes on in, the innermost first."""
        scope = _current.get()
        while scope is not None:
            yield scope
            scope = scope._outer

    @staticmethod
    def is_lost() -> bool:
        """Whether this goes on for a contender that was not first."""
        return any(scope._lost for scope in Scope.all_current())

    @staticmethod
    def note(key: str) -> None:
        """Something goes on here that is on record, or is to be."""
        for scope in Scope.all_current():
            scope.keys.add(key)

    @staticmethod
    def check() -> None:
        """Nothing begins any more for a contender that was not first.

        Raises:
            CancelledError: This goes on for one. It was cancelled, or is about to be.
        """
        if Scope.is_lost():
            raise asyncio.CancelledError

    @staticmethod
    @contextmanager
    def beginning(key: str) -> Generator[None]:
        """Inside, something is about to be on record as begun.

        Args:
            key: Its key.

        Raises:
            CancelledError: See :meth:`check`.
        """
        Scope.check()
        Scope.note(key)
        scopes = list(Scope.all_current())
        for scope in scopes:
            scope._beginning += 1
            scope._calm.clear()
        try:
            yield
        finally:
            for scope in scopes:
                scope._beginning -= 1
                if not scope._beginning:
                    scope._calm.set()

    def context(self) -> Context:
        """A copy of this context, inside of the scope."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    async def lose(self) -> None:
        """Another was first: nothing begins here any more, once this has returned."""
        self._lost = True
        await self._calm.wait()
