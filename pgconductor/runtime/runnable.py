"""A task together with what is called for it."""

from __future__ import annotations

from dataclasses import dataclass

from pgconductor.domain.tasks import TaskOptions
from pgconductor.runtime.handler import Handler

__all__ = ["Runnable"]


@dataclass(frozen=True, slots=True)
class Runnable:
    """A task that this process can execute.

    Attributes:
        options: What it declares.
        handler: What is called.
    """

    options: TaskOptions
    handler: Handler
