"""Find a conductor by ``module:attribute``."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgconductor.cli.errors import CommandFailed, explain
from pgconductor.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pgconductor import Conductor

__all__ = ["app_dir", "locate"]

app_dir = click.option(
    "--app-dir",
    default=".",
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the module is looked for first.",
)


def locate(locator: str, folder: Path) -> Conductor:
    """Import a conductor.

    Args:
        locator: ``package.module:attribute``; the attribute may have dots, too.
        folder: Put in front of the import path.

    Raises:
        CommandFailed: There is no such module or attribute, or it is no conductor.
    """
    from pgconductor import Conductor

    module_name, _, path = locator.partition(":")
    if not module_name or not path:
        raise CommandFailed(f"{locator!r} is no conductor: write module:attribute, as in app:main")
    sys.path.insert(0, str(folder.resolve()))
    found: Any = _imported(module_name, folder)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CommandFailed(f"module {module_name!r} has no attribute {path!r}") from None
    if not isinstance(found, Conductor):
        raise CommandFailed(f"{locator} is a {type(found).__name__}, not a Conductor")
    return found


def _imported(name: str, folder: Path) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandFailed(f"no module {name!r} in {folder.resolve()} (--app-dir)") from error
        raise CommandFailed(f"importing {name!r} failed: {error}{_place(error)}") from error
    except (Exception, SystemExit) as error:
        # A module that ends the process is no application either; its code would pass for ours.
        line, code = explain(error)
        if code is ExitCode.ERROR:
            line, code = f"{type(error).__name__}: {error}".removesuffix(": "), ExitCode.USAGE
        raise CommandFailed(f"importing {name!r} failed: {line}{_place(error)}", code) from error


def _place(error: BaseException) -> str:
    """Where in the user's code it happened: the last frame that is not the import system's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
