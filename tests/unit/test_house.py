"""What holds for the repository as a whole: layout, names, sizes, locks."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pgconductor

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pgconductor"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = {
    "Conductor",
    "ExecutionHandle",
    "ExecutionState",
    "RetryPolicy",
    "Settings",
    "Task",
    "TaskContext",
    "TaskRef",
    "__version__",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


# --- layout --------------------------------------------------------------------------------------


def test_the_alembic_folder_is_no_package() -> None:
    assert (ROOT / "alembic" / "env.py").is_file()
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_a_service_and_a_worker_import_no_alembic() -> None:
    """It takes a fifth of the start, and logs whatever it registers."""
    found = python(
        "-c",
        "import sys, pgconductor.cli.worker, pgconductor.conductor;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'alembic', 'mako'}))",
    )
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_import_alembic_finds_the_library_from_the_root() -> None:
    found = python("-c", "import alembic, alembic.op; print(alembic.__file__)")
    assert found.returncode == 0, found.stderr
    assert ROOT / "alembic" not in Path(found.stdout.strip()).parents


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", ["run", ".ci/run"])
def test_the_scripts_can_be_executed(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


# --- architecture --------------------------------------------------------------------------------


def test_the_import_contracts_hold() -> None:
    done = python("-c", "import importlinter.cli as c; c.lint_imports_command()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_outermost_modules_import_the_package_root() -> None:
    graph = grimp.build_graph("pgconductor", cache_dir=None)
    importers = graph.find_modules_that_directly_import("pgconductor")
    allowed = re.compile(r"pgconductor\.(__main__|cli|testing)(\.|$)")
    assert not [name for name in importers if not allowed.match(name)]


# --- names ---------------------------------------------------------------------------------------


def test_the_public_names() -> None:
    assert set(pgconductor.__all__) == PUBLIC
    assert all(hasattr(pgconductor, name) for name in PUBLIC)


def identifiers(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "arg", "name", "asname"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


def words(identifier: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_we_say_execution_and_task(path: Path) -> None:
    """The nouns of other engines stay out of names and docstrings."""
    foreign = {"job", "jobs", "workflow", "workflows"}
    found = []
    for node in ast.walk(tree(path)):
        used = set(chain.from_iterable(map(words, identifiers(node))))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            used |= set(re.findall(r"\b[a-z]+\b", (ast.get_docstring(node) or "").lower()))
        if used & foreign:
            found.append(f"line {getattr(node, 'lineno', 1)}: {used & foreign}")
    assert not found


# --- tests ---------------------------------------------------------------------------------------


def statements(path: Path) -> Iterator[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def test_tests_look_at_nobody_elses_connections() -> None:
    """Tests at the same time share a server: what one waits for, another may do first."""
    here = re.compile(r"datname|\bpid = |\bOTHERS\b")
    found = [
        f"{relative(path)}: {statement}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for statement in statements(path)
        if re.search(r"\bpg_stat_activity\b", statement) and not here.search(statement)
    ]
    assert not found


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_ignore_names_its_code_and_its_reason(path: Path) -> None:
    reasoned = re.compile(
        r"# (noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|(type|pyright): ignore\[[\w, -]+\]) +(#|-|\() ?\w"
        r"|# pragma: no (cover|branch)\b +(#|-|\() ?\w"
    )
    bare = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"# (noqa|(type|pyright): ignore|pragma: no)", line)
        and not reasoned.search(line)
    ]
    assert not bare


# --- locks ---------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, list[Requirement]]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    found: dict[str, list[Requirement]] = {}
    for entry in re.findall(
        r"^([a-z0-9][^\n\\]*?) *\\\n((?: +--hash=\S+[^\n]*\n)+)", text, re.MULTILINE
    ):
        requirement = Requirement(entry[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    assert len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) == sum(map(len, found.values()))
    return found


def group(name: str) -> Iterator[str]:
    for entry in project()["dependency-groups"][name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(entry["include-group"])


def wanted(*, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> list[Requirement]:
    table = project()["project"]
    listed = chain(
        table["dependencies"] if extras else [],
        *(table["optional-dependencies"][extra] for extra in extras),
        *(group(name) for name in groups),
    )
    return [Requirement(line) for line in listed]


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("dev.txt", wanted(extras=("dev", "psycopg", "testing", "uvloop"), groups=("dev",))),
        ("demo.txt", wanted(extras=("dev",))),
        ("build.txt", wanted(groups=("build",))),
    ],
    ids=["dev", "demo", "build"],
)
def test_every_direct_dependency_is_locked(name: str, direct: list[Requirement]) -> None:
    """Q2: the locks are the only generated files here, and they follow what they are made from."""
    locked = pins(name)
    for requirement in direct:
        for pin in locked[canonicalize_name(requirement.name)]:
            (version,) = pin.specifier
            assert version.operator == "=="
            assert requirement.specifier.contains(version.version, prereleases=True), requirement


@pytest.mark.parametrize("name", ["demo.txt", "build.txt"])
def test_the_smaller_locks_agree_with_the_whole(name: str) -> None:
    whole = {
        pin.name: {str(p) for p in found} for found in pins("dev.txt").values() for pin in found
    }
    for found in pins(name).values():
        assert {str(pin) for pin in found} <= whole[found[0].name]


def test_extras_are_tested() -> None:
    assert set(project()["project"]["optional-dependencies"]) <= {
        "dev",
        "psycopg",
        "testing",
        "uvloop",
    }, "a new extra belongs into LOCKS of the noxfile and into the test above"


# --- nothing of one machine ----------------------------------------------------------------------


def repository() -> list[Path]:
    if shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if listed.returncode == 0:
            return [ROOT / name for name in listed.stdout.split("\0") if name]
    files = [path for path in ROOT.rglob("*") if path.is_file()]  # no git, or an unpacked sdist
    tops = {path: path.relative_to(ROOT).parts[0] for path in files}
    made = {"build", "dist", "htmlcov", "site"}  # and the dotted: caches and environments
    return [
        path for path, top in tops.items() if top not in made and top.lstrip(".") in {top, "ci"}
    ]


def test_no_file_names_a_machine_or_a_registry() -> None:
    private = re.compile(
        r"(?<![\w.$}~-])/(?:root/\.(?:pyenv|cache)|work/|home/\w+|Users/\w+|opt/pypi)"
        r"|\bpypi\.org\b|\bpythonhosted\.org\b|\bnpmjs\.(?:org|com)\b|\bdeb\.debian\.org\b"
        r"|^--(?:extra-)?index-url|^--find-links",
        re.MULTILINE,
    )
    found = []
    for path in repository():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{relative(path)}: {hit.group()}" for hit in private.finditer(text)]
    assert not found
