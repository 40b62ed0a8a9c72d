"""Identifiers, made by the client, so that an id is known before its row commits."""

from __future__ import annotations

import sys
from uuid import UUID

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

__all__ = ["new_id"]


def new_id() -> UUID:
    """Make a UUID of version 7 (RFC 9562, section 5.7): ordered by time, so inserts append."""
    return uuid7()
