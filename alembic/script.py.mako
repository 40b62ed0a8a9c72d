<%! from pgconductor.schema.authoring import only_in_a_checkout %>\
${only_in_a_checkout(self.template.filename)}\
"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
from pgconductor.schema import applying, reverting

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

name = ${repr(message)}
# True if an orchestrator of a release that does not know this revision cannot work correctly
# after it, False if it can. None is refused: decide.
breaking: bool | None = None


def upgrade() -> None:
    with applying(op, revision, name=name, breaking=breaking):
        change()


def downgrade() -> None:
    with reverting(op, revision, name=name, breaking=breaking):
        change_back()


def change() -> None:
    ${upgrades if upgrades else "pass"}


def change_back() -> None:
    ${downgrades if downgrades else "pass"}
