"""The command ``pgconductor``; its modules import what is heavy when a command needs it."""

from pgconductor.cli.exit_codes import ExitCode
from pgconductor.cli.root import execute, main

__all__ = ["ExitCode", "execute", "main"]
