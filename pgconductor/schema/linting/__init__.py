"""A linter of revisions, for their authors; it is not part of what is installed.

It applies each revision to a database of its own, and asks Postgres what that did: what is gone
or changed, which tables were locked while their rows were read or written. Why so, and against
what: docs/decisions/0021-linting-revisions.md.
"""

from pgconductor.schema.linting.linter import lint
from pgconductor.schema.linting.rules import ANSWERABLE, FIRM, Finding

__all__ = ["ANSWERABLE", "FIRM", "Finding", "lint"]
