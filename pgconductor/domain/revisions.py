"""Which database revisions this release can work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pgconductor.exceptions import SchemaBehind, SchemaTooNew

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
    """

    installed: int
    floor: int

    def check(self, known: int = KNOWN_REVISION, required: int = REQUIRED_REVISION) -> None:
        """Raise unless a release that knows ``known`` and needs ``required`` may work here.

        A database ahead by non-breaking revisions only is fine.

        Raises:
            SchemaTooNew: A breaking revision is there that the release does not know.
            SchemaBehind: The database lacks revisions.
        """
        if self.floor > known:
            raise SchemaTooNew(self.installed, known, self.floor)
        if self.installed < required:
            raise SchemaBehind(self.installed, required)
