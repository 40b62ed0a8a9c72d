"""What every revision declares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from pgconductor.exceptions import RevisionMetadataError
from pgconductor.schema.locations import script_location

__all__ = ["Revision", "revisions"]


@dataclass(frozen=True, slots=True)
class Revision:
    """What a revision declares.

    Attributes:
        version: Its number; ``0001`` is 1.
        name: What it does, in a few words.
        breaking: An orchestrator of a release that does not know it cannot work correctly after it.
        irreversible: It cannot be taken back.
    """

    version: int
    name: str
    breaking: bool
    irreversible: bool = False

    @classmethod
    def read(
        cls, revision: object, name: object, breaking: object, irreversible: object = False
    ) -> Revision:
        """Check what a revision file declares.

        Raises:
            RevisionMetadataError: Something is missing or of the wrong type.
        """
        if not isinstance(revision, str) or re.fullmatch("[0-9]{4}", revision) is None:
            raise RevisionMetadataError(
                f"revision {revision!r}: its id must be four digits, the next number; make it "
                "with `alembic revision -m ...` in a checkout"
            )
        if not isinstance(name, str) or not name:
            raise RevisionMetadataError(f"revision {revision}: it declares no name")
        if not isinstance(breaking, bool):
            raise RevisionMetadataError(
                f"revision {revision}: breaking must be True or False, not {breaking!r}; decide "
                "whether an orchestrator that does not know it can go on after it"
            )
        if not isinstance(irreversible, bool):
            raise RevisionMetadataError(
                f"revision {revision}: irreversible must be True or False, not {irreversible!r}"
            )
        return cls(int(revision), name, breaking, irreversible)


def revisions(location: Path | None = None) -> tuple[Revision, ...]:
    """All shipped revisions, oldest first.

    Args:
        location: Another folder than ours.

    Raises:
        RevisionMetadataError: One of them does not declare what it must.
    """
    config = Config()
    config.set_main_option("script_location", str(location or script_location()).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    found = (_declared(script.revision, script.module) for script in scripts)
    return tuple(reversed(list(found)))


def _declared(revision: str, module: object) -> Revision:
    return Revision.read(
        revision,
        getattr(module, "name", None),
        getattr(module, "breaking", None),
        getattr(module, "irreversible", False),
    )
