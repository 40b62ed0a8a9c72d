"""What the newest revision leaves in the catalogs: what ``doctor`` compares a database with.

It is written by ``python -m pgconductor.schema.linting.catalog``, in a checkout, and a test holds
it fresh on every server. Functions are digests: their text is in the revisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["CATALOG_FILE", "wanted_catalog"]

CATALOG_FILE: Final = Path(__file__).with_name("catalog.json")


@cache
def wanted_catalog() -> Mapping[str, str]:
    """Definitions by kind and name, as :meth:`SqlHealthRepository.catalog` reads them."""
    found: dict[str, str] = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    return found
