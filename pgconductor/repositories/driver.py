"""Statements on the driver's own connection: what SQLAlchemy's session would send, for less."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import Dialect, Executable, TextClause
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.sql import ClauseElement

__all__ = ["DriverExecutor", "before_each_statement"]

_DIALECT: Final = dialects.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
_Compiled = tuple[str, tuple[str, ...], Mapping[str, Any]]
# The statements of pgconductor.sql are few and live as long as the process.
_texts: Final[dict[TextClause, _Compiled]] = {}
_preludes: Final[WeakKeyDictionary[Dialect, Callable[[], str | None]]] = WeakKeyDictionary()


def before_each_statement(dialect: Dialect, prelude: Callable[[], str | None]) -> None:
    """Have something executed before each statement, as SQLAlchemy's events do; for test clocks.

    Args:
        dialect: Whose connections are meant.
        prelude: Returns a statement, or None for nothing.
    """
    _preludes[dialect] = prelude


class _Row(asyncpg.Record):
    """A row whose columns are attributes too, as SQLAlchemy's are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class DriverExecutor:
    """Executes SQLAlchemy's statements on an asyncpg connection, each committed by itself.

    Args:
        connection: An asyncpg connection that nobody else uses.
        dialect: The dialect of the engine that it comes from.
        parsed_anew: Whether each execution has its statement parsed, for the sake of a transaction
            pooler; the driver's own cache must be off.
    """

    def __init__(
        self, connection: asyncpg.Connection[Any], dialect: Dialect, *, parsed_anew: bool = False
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._parsed_anew = parsed_anew
        self._described: dict[str, PreparedStatement[_Row]] = {}

    async def rows(
        self, statement: Executable, parameters: Mapping[str, Any] | None
    ) -> Sequence[Any]:
        """Execute a statement.

        Args:
            statement: A text of ``pgconductor.sql``, or any other that SQLAlchemy can compile.
            parameters: Values of its parameters.

        Returns:
            Its rows.
        """
        prelude = _preludes.get(self._dialect)
        if prelude is not None and (said := prelude()) is not None:
            await self._connection.execute(said)
        query, names, given = _compiled(statement)
        values = {**given, **parameters} if given and parameters else parameters or given
        arguments = [values[name] for name in names]
        if self._parsed_anew:
            return await (await self._statement(query)).fetch(*arguments)
        return await self._connection.fetch(query, *arguments, record_class=_Row)

    async def _statement(self, query: str) -> PreparedStatement[_Row]:
        """A statement of which the driver knows the types, and the server nothing.

        It is parsed again whenever it is executed, in the same messages: one round trip, in which
        nobody else can have the server's connection, and in which a blocked event loop cannot hold
        it.
        """
        found = self._described.get(query)
        if found is None:
            # The driver asks for types, and changes settings meanwhile: all on one connection.
            async with self._connection.transaction():
                found = await self._connection.prepare(query, name="", record_class=_Row)
            self._described[query] = found
        return found


def _compiled(statement: Executable) -> _Compiled:
    if isinstance(statement, TextClause):
        known = _texts.get(statement)
        if known is None:
            known = _texts[statement] = _compile(statement)
        return known
    return _compile(statement)


def _compile(statement: Executable) -> _Compiled:
    if not isinstance(statement, ClauseElement):
        raise TypeError(f"{type(statement).__name__} cannot be compiled")
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    own: Mapping[str, Any] = {}
    if not isinstance(statement, TextClause):
        own = compiled.construct_params() or own
    return str(compiled), tuple(getattr(compiled, "positiontup", None) or ()), own
