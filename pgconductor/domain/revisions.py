"""Which database revisions this release can work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pgconductor.exceptions import MigrationUnderWay, SchemaBehind, SchemaTooNew

__all__ = ["KNOWN_REVISION", "REQUIRED_REVISION", "SchemaStatus"]

#: The highest revision that this release ships and knows; a test holds it to the files.
KNOWN_REVISION: Final = 1
#: The lowest revision that this release can work on.
REQUIRED_REVISION: Final = 1


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What the database says of itself.

    Attributes:
        installed: Its highest revision.
        floor: Its highest breaking revision: who does not know it cannot work here.
        intent_floor: A breaking revision that is being prepared, if one is.
        intent_ceiling: The revision that the database is being taken back to, if it is.
        lease_holder: The migration that is at work, in words.
    """

    installed: int
    floor: int
    intent_floor: int | None = None
    intent_ceiling: int | None = None
    lease_holder: str | None = None

    def check(self, known: int = KNOWN_REVISION, required: int = REQUIRED_REVISION) -> None:
        """Raise unless a release that knows ``known`` and needs ``required`` may work here.

        A database ahead by non-breaking revisions only is fine.

        Raises:
            SchemaTooNew: A breaking revision is there that the release does not know.
            SchemaBehind: The database lacks revisions.
            MigrationUnderWay: One of the two is about to come true.
        """
        if self.floor > known:
            raise SchemaTooNew(self.installed, known, self.floor)
        if self.installed < required:
            raise SchemaBehind(self.installed, required)
        if self.intent_floor is not None and self.intent_floor > known:
            raise MigrationUnderWay(known, self.intent_floor, self.lease_holder)
        if self.intent_ceiling is not None and self.intent_ceiling < required:
            raise MigrationUnderWay(known, self.intent_ceiling, self.lease_holder)
