"""Values that are on record."""

from __future__ import annotations

from typing import Any, Final

from pgconductor.domain.steps import Recorded, StepKind
from pgconductor.exceptions import PayloadDecodeError
from pgconductor.runtime.codec import Codec
from pgconductor.runtime.record import Record
from pgconductor.runtime.wording import shown

__all__ = ["decoded"]

#: Why what others have sent may be of another type.
_BY_OTHERS: Final = {
    StepKind.EVENT: "It was emitted so, or the handler was changed since.",
    StepKind.CHILD: "The child has returned it so, or the handler was changed since.",
}


def decoded(record: Record, codec: Codec, found: Recorded) -> Any:
    """The value that is on record.

    Raises:
        ReplayMismatch: It is not of the type that the code has now.
    """
    try:
        return codec.decode(found.result)
    except PayloadDecodeError as error:
        why = [_BY_OTHERS[found.kind]] if found.kind in _BY_OTHERS else []
        raise record.mismatch(
            f"{shown(found)} with its result", f"that it {error}", *why
        ) from error
