"""Take down the statements of calls, and read the plans that the server makes of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pgconductor.repositories import Repositories, sql_repositories
from tests.support.servers import connect

__all__ = ["Call", "Explainer", "Plan"]

Call = Callable[[Repositories, list[UUID]], Awaitable[Any]]


@dataclass(frozen=True)
class Plan:
    """A plan, or a part of one."""

    root: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        todo = [self.root]
        while todo:
            node = todo.pop()
            yield node
            todo += node.get("Plans", [])

    def part(self, name: str) -> Plan:
        (found,) = [node for node in self.nodes() if node.get("Subplan Name") == name]
        return Plan(found)

    def types(self) -> set[str]:
        return {node["Node Type"] for node in self.nodes()}

    def whole_reads(self, *tables: str) -> list[dict[str, Any]]:
        """Scans that read a table from one end to the other."""
        return [
            node
            for node in self.nodes()
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables
        ]

    def indexes(self, table: str = "executions") -> set[str]:
        """The indexes through which rows of a table are found."""
        return {
            node["Index Name"]
            for node in self.nodes()
            if "Index Name" in node and node["Index Name"].startswith(table)
        }


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return "'" + plain(value).replace("'", "''") + "'"


def plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "{" + ",".join("NULL" if one is None else quoted(plain(one)) for one in value) + "}"
    return str(value)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Explainer:
    """Takes down the statements of calls, and has them explained."""

    def __init__(self, engine: AsyncEngine, url: str, mode: str, running: list[UUID]) -> None:
        self.engine = engine
        self.url = url
        self.mode = mode
        self.running = running

    async def plans(self, call: Call) -> list[Plan]:
        statements: list[tuple[str, Any]] = []

        def collect(_1: Any, _2: Any, statement: str, parameters: Any, *_: Any) -> None:
            statements.append((statement, parameters))

        event.listen(self.engine.sync_engine, "before_cursor_execute", collect)
        try:
            async with self.engine.connect() as writer:
                await call(sql_repositories(writer), self.running)
                await writer.rollback()
        finally:
            event.remove(self.engine.sync_engine, "before_cursor_execute", collect)
        with connect(self.url) as connection:
            connection.execute(f"SET plan_cache_mode = {self.mode}".encode())
            return [self.explain(connection, *one) for one in statements]

    async def plan(self, call: Call) -> Plan:
        (plan,) = await self.plans(call)
        return plan

    def explain(self, connection: psycopg.Connection[Any], statement: str, parameters: Any) -> Plan:
        connection.execute(f"PREPARE explained AS {statement}".encode())
        given = ", ".join(literal(value) for value in parameters)
        execute = f"EXECUTE explained ({given})" if given else "EXECUTE explained"
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {execute}".encode()).fetchone()
        connection.execute("DEALLOCATE explained")
        assert row is not None
        return Plan(row[0][0]["Plan"])

    async def nested(self, call: Call) -> dict[str, list[Plan]]:
        """The plans of the statements inside functions, as auto_explain reports them."""
        async with self.engine.connect() as connection:
            messages = await watched(connection, self.mode)
            await call(sql_repositories(connection), self.running)
            await connection.rollback()
        found: dict[str, list[Plan]] = {}
        for message in messages:
            _, _, text = message.partition("plan:\n")
            if text:
                explained = json.loads(text)
                found.setdefault(explained["Query Text"], []).append(Plan(explained["Plan"]))
        return found


async def watched(connection: AsyncConnection, mode: str) -> list[str]:
    """Have the server report every plan of this session, those inside functions included."""
    messages: list[str] = []
    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    raw.add_log_listener(lambda _, message: messages.append(message.message))
    for statement in (
        "LOAD 'auto_explain'",
        "SET auto_explain.log_min_duration = 0",
        "SET auto_explain.log_nested_statements = on",
        "SET auto_explain.log_format = json",
        "SET auto_explain.log_level = notice",
        f"SET plan_cache_mode = {mode}",
    ):
        await connection.exec_driver_sql(statement)
    return messages
