"""What functions return, by their hints, whatever may be called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from pgconductor import Conductor
from pgconductor.exceptions import ConfigurationError, InvalidInput
from pgconductor.runtime.handler import Handler
from pgconductor.runtime.hints import is_async
from pgconductor.runtime.results import codec_of

if TYPE_CHECKING:
    from decimal import Decimal

    from sqlalchemy.ext.asyncio import AsyncSession

    from pgconductor import TaskContext

TEXT = '"01a22815-8aad-705b-b2b8-d4231fef720c"'


async def plain(session: AsyncSession) -> UUID:
    raise NotImplementedError


def awaitable() -> Awaitable[UUID]:
    raise NotImplementedError


@wraps(plain)
def wrapper(*args: Any) -> Any:
    raise NotImplementedError


class Service:
    async def __call__(self) -> UUID:
        raise NotImplementedError

    def method(self, session: AsyncSession) -> UUID:
        raise NotImplementedError

    @classmethod
    async def of_class(cls) -> UUID:
        raise NotImplementedError

    @staticmethod
    def static() -> UUID:
        raise NotImplementedError


def name_of(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


@pytest.mark.parametrize(
    "function",
    [
        plain,
        partial(plain),
        awaitable,
        wrapper,
        Service(),
        partial(Service()),
        Service().method,
        Service.of_class,
        Service.static,
        UUID,
    ],
    ids=name_of,
)
def test_a_result_is_of_the_hinted_type(function: Callable[..., Any]) -> None:
    """What is imported for type checkers only does not matter elsewhere."""
    assert codec_of(function).decode(TEXT) == UUID(TEXT.strip('"'))


class Order(BaseModel):
    number: int

    async def doubled(self) -> Self:
        raise NotImplementedError


@pytest.mark.parametrize(
    "function",
    [
        Order.model_validate_json,
        partial(Order.model_validate_json, strict=True),
        Order(number=1).doubled,
    ],
    ids=["class", "partial", "object"],
)
def test_a_method_returns_its_own_class(function: Callable[..., Any]) -> None:
    assert codec_of(function).decode('{"number": 2}') == Order(number=2)


def test_what_cannot_be_called() -> None:
    with pytest.raises(InvalidInput, match="7 cannot be called: give the function"):
        codec_of(cast("Any", 7))


@pytest.mark.parametrize("function", [uuid4, len, print, lambda: 1], ids=name_of)
def test_without_a_hint_it_is_plain_json(function: Callable[..., Any]) -> None:
    assert codec_of(function).decode(TEXT) == TEXT.strip('"')


def test_an_object_with_an_async_call_is_async() -> None:
    assert is_async(Service())
    assert is_async(partial(Service()))
    assert not is_async(UUID)
    assert not is_async(awaitable)


def test_a_result_whose_type_is_not_there() -> None:
    def price() -> Decimal:
        raise NotImplementedError

    with pytest.raises(ConfigurationError, match="name 'Decimal' is not defined"):
        codec_of(price)


def test_a_handler_whose_context_is_imported_for_type_checkers() -> None:
    async def handler(ctx: TaskContext, payload: UUID) -> UUID:
        return payload

    found = Handler.of(handler)
    assert found.payload.decode(TEXT) == found.result.decode(TEXT) == UUID(TEXT.strip('"'))
    assert Conductor(database_url="postgresql+asyncpg://localhost/x").task(handler).name
