"""What comes back is what was given, or it is refused before it is stored: for types of all kinds.

The types are drawn, and values of them; the database is a real one, and the twin's is held equal to
it by ``test_jsonb``.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from pgconductor.exceptions import ConfigurationError, InvalidPayload
from pgconductor.runtime.codec import Codec
from pgconductor.testing.jsonb import as_jsonb
from tests.contracts.kinds_of_values import (
    TYPED,
    Base,
    Colour,
    Holder,
    Sub,
    Typed,
    canonical,
)

STORED = text("SELECT CAST(CAST(:given AS jsonb) AS text)")


def encoded(typed: Typed) -> tuple[Codec, str | None] | None:
    """The codec and the JSON; None if the type or the value was refused."""
    hint, value = typed
    try:
        codec = Codec.of(hint, "here")
        return codec, codec.encode(value, max_bytes=100_000)
    except (ConfigurationError, InvalidPayload):
        return None


def check(typed: Typed, codec: Codec, stored: str | None) -> None:
    hint, value = typed
    read: Any = codec.decode(stored)
    if "Json" in str(hint) or "AfterValidator" in str(hint):
        value = codec.adapter and codec.adapter.validate_python(value)  # What the type takes it as.
    assert canonical(read) == canonical(value), (hint, value, stored, read)
    if type(value) is int:
        assert read == value


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(TYPED, min_size=1, max_size=20))
@example([(float | Any, 1e22)])
@example([(int | float, 1e22)])
@example([(list[Holder], [Holder(base=Base(), many=[Sub()])])])
@example([(Colour, Colour.PAIR), (dict[Colour, int], {Colour.BLUE: 1, Colour.RED: 2})])
@example([(Any, [2.398308820495267e216, 1e23])])
def test_what_comes_back_is_what_was_given(sync_engine: Engine, drawn: list[Typed]) -> None:
    with sync_engine.connect() as connection:
        for typed in drawn:
            found = encoded(typed)
            if found is not None:
                codec, written = found
                check(typed, codec, connection.execute(STORED, {"given": written}).scalar_one())


@settings(max_examples=500, deadline=None)
@given(TYPED)
def test_so_it_does_in_memory(typed: Typed) -> None:
    found = encoded(typed)
    if found is not None:
        codec, written = found
        check(typed, codec, as_jsonb(written, "payload"))
