"""Database roles that are made by exactly what ``pgconductor grants`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from psycopg import sql
from sqlalchemy import make_url

from pgconductor.domain.privileges import RoleKind
from tests.acceptance.test_cli_support import call
from tests.support.servers import connect

__all__ = ["Roles", "made_roles"]


class Roles:
    """Roles of one test; they are dropped with it, for roles belong to the whole server.

    Args:
        url: The database, as a superuser.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"pgc_{uuid4().hex[:8]}"
        self._made: list[str] = []

    def name(self, label: str) -> str:
        return f"{self._prefix}_{label}"

    def script(self, kind: RoleKind, *options: str) -> str:
        arguments = ("grants", "--role", self.name(kind.value), "--kind", kind.value, *options)
        return call(*arguments).succeeds().out

    def make(self, kind: RoleKind) -> str:
        """A login role of that kind; returns its URL of the database."""
        url = self.login(kind.value)
        self.execute(self.script(kind))
        return url

    def login(self, label: str) -> str:
        """A role that may log in, and nothing else."""
        name = self.name(label)
        self.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), "secret")
        )
        self._made.append(name)
        return self.url_of(label)

    def url_of(self, label: str) -> str:
        url = make_url(self.url).set(username=self.name(label), password="secret")
        return url.render_as_string(hide_password=False)

    def execute(self, statement: str | sql.Composed) -> None:
        """As the superuser."""
        with connect(self.url) as admin:
            admin.execute(statement.encode() if isinstance(statement, str) else statement)

    def drop(self) -> None:
        with connect(self.url) as admin:
            found = admin.execute(
                "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (self._prefix,)
            )
            for (name,) in found.fetchall():
                for command in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}"):
                    admin.execute(sql.SQL(command).format(sql.Identifier(str(name))))


@contextmanager
def made_roles(url: str) -> Iterator[Roles]:
    """Roles on a database."""
    roles = Roles(url)
    try:
        yield roles
    finally:
        roles.drop()
