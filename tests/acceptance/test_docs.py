"""What README and docs say is so: blocks compile or execute, tables and signatures match the code.

A comment before a block says what is to be done with it, beside compiling:
``<!-- test: file NAME -->`` writes it where later blocks of the page can import it, ``execute``
after that executes it and ``pytest`` has pytest execute it; ``<!-- test: sql -->`` executes SQL in
a transaction that is rolled back; ``<!-- signature: dotted.path -->`` compares a ``def``;
``<!-- quote: path -->`` says that the block stands in that file, word for word.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pgconductor
from pgconductor import Settings, exceptions, models, services, testing
from pgconductor.cli import ExitCode
from pgconductor.cli.root import root
from tests.acceptance.test_examples import ROOT, python
from tests.support.servers import connect

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<directive>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block and what is to be done with it."""

    page: Path
    line: int
    language: str
    code: str
    directive: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def words(self) -> list[str]:
        kind, _, rest = self.directive.partition(": ")
        return rest.split() if kind == "test" else []


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(page, line, found["language"], found["code"], found["directive"] or "")


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SQL = [block for block in BLOCKS if block.words == ["sql"]]
PROGRAMS = [page for page in PAGES if any("file" in block.words for block in blocks_of(page))]
QUOTES = [block for block in BLOCKS if block.directive.startswith("quote: ")]
SIGNATURES = [block for block in BLOCKS if block.directive.startswith("signature: ")]


# --- code ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_programs_execute(page: Path, tmp_path: Path, database_url: str) -> None:
    tests = []
    for block in blocks_of(page):
        if block.words[:1] != ["file"]:
            continue
        name, actions = block.words[1], block.words[2:]
        (tmp_path / name).write_text(block.code, encoding="utf-8")
        if "execute" in actions:
            python(name, cwd=tmp_path, url=database_url)
        elif "pytest" in actions:
            tests.append(name)
    if tests:
        options = (
            *("-q", "-p", "no:randomly", "-p", "no:cacheprovider"),
            *("-p", "pgconductor.testing.plugin", "--pgconductor-url", database_url),
        )
        python("-m", "pytest", *options, *tests, cwd=tmp_path, url=database_url)


@pytest.mark.parametrize("block", SQL, ids=str)
def test_sql_executes(block: Block, database_url: str) -> None:
    with connect(database_url) as connection, connection.transaction(force_rollback=True):
        connection.execute(block.code.encode())


@pytest.mark.parametrize("block", QUOTES, ids=str)
def test_quotes_are_word_for_word(block: Block) -> None:
    quoted = ROOT / block.directive.partition(": ")[2]
    assert block.code in quoted.read_text(encoding="utf-8")


def test_every_directive_is_understood() -> None:
    known = re.compile(
        r"test: (file [\w.]+( execute| pytest)?|sql)|signature: [\w.]+|quote: [\w./]+"
    )
    assert not [str(one) for one in BLOCKS if one.directive and not known.fullmatch(one.directive)]
    assert SQL
    assert PROGRAMS
    assert SIGNATURES
    assert QUOTES


# --- commands ------------------------------------------------------------------------------------


def shell_lines(command: str) -> list[str]:
    """Every line of a shell block that begins with a command."""
    lines = (line for one in BLOCKS if one.language == "sh" for line in one.code.splitlines())
    return [line.partition("#")[0] for line in lines if line.startswith(f"{command} ")]


@pytest.mark.parametrize("line", sorted(set(shell_lines("pgconductor"))))
def test_commands_and_their_options_exist(line: str) -> None:
    words = line.partition(">")[0].split()[1:]
    asked = CliRunner().invoke(root, [words[0], "--help"])
    assert asked.exit_code == 0, asked.output
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", asked.output), (
            f"{words[0]} has no {option}"
        )


def test_the_two_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / "run").read_text(encoding="utf-8")
    for command in re.findall(r"`\./run (\w+)`", readme):
        assert re.search(rf"^  {command}\b", script, re.MULTILINE), command
    assert "`./run demo`" in readme
    assert "`./run test`" in readme


# --- tables --------------------------------------------------------------------------------------


def rows_of(page: str, *, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has that head."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"^\| {first_column} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def shown(value: object) -> tuple[str, str]:
    """A setting's unit and default as the table has them."""
    if isinstance(value, bool):
        return "true or false", str(value).lower()
    if isinstance(value, timedelta):
        return "seconds", f"{value.total_seconds():.10g}"
    return "", "none" if value is None else str(value)


def test_the_settings_table() -> None:
    rows = {row[0].strip("`"): row[1:3] for row in rows_of("deploying.md", first_column="setting")}
    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        unit, default = shown(field.default)
        assert rows[name][1] == default, name
        assert rows[name][0] == unit or not unit, name


def test_the_exit_codes() -> None:
    rows = [tuple(row) for row in rows_of("deploying.md", first_column="code")]
    meanings = ExitCode.meanings().items()
    assert rows == [(str(int(code)), f"`{code.name}`", text) for code, text in meanings]


def test_the_doctor_ends_with_the_code_that_its_page_names() -> None:
    page = (DOCS / "operating.md").read_text(encoding="utf-8")
    assert f"exit code {int(ExitCode.ATTENTION)} if something is `warn` or `bad`" in page


def test_an_arrow_of_the_states_is_drawn_once() -> None:
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    arrows = re.findall(r"^ +(\S+ --> \S+):? ", page, re.MULTILINE)
    assert len(arrows) > 10
    assert sorted(set(arrows)) == sorted(arrows)


def test_the_models() -> None:
    rows = {row[0].strip("`"): row[1:] for row in rows_of("reference.md", first_column="model")}
    mapped = {name for name in models.__all__ if hasattr(getattr(models, name), "__table__")}
    assert set(rows) == mapped
    for name, (table, columns) in rows.items():
        model = getattr(models, name)
        assert table.strip("`") == model.__tablename__
        assert re.findall(r"`(\w+)`", columns) == list(model.__table__.columns.keys())


def test_the_tree_of_errors() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert set(re.findall(r"[├└]── (\w+)", page)) | {"PgconductorError"} == set(exceptions.__all__)


# --- signatures ----------------------------------------------------------------------------------


def resolve(path: str) -> Any:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"nothing is at {path}")


def normal(annotation: object) -> str:
    """An annotation as ast writes it; hints are strings throughout."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return ast.unparse(ast.parse(text, mode="eval"))


def described(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, bool, str, str]]:
    """Name, keyword-only, annotation and default of each documented parameter."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing = len(plain) - len(arguments.defaults)
    rest = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    first = [*[None] * missing, *arguments.defaults]
    defaults = [*first, *arguments.kw_defaults, *[None] * len(rest)]
    return [
        (
            one.arg,
            one in arguments.kwonlyargs,
            "" if one.annotation is None else ast.unparse(one.annotation),
            "" if default is None else ast.unparse(default),
        )
        for one, default in zip([*plain, *arguments.kwonlyargs, *rest], defaults, strict=True)
    ]


def default_of(parameter: inspect.Parameter, documented: str) -> str:
    """The default, to be compared; what is no literal is only compared by its presence."""
    if parameter.default is parameter.empty:
        return ""
    try:
        literal = ast.literal_eval(documented)
    except ValueError:
        return documented or "some default"
    same = literal is ... or literal == parameter.default
    return documented if same else repr(parameter.default)


@pytest.mark.parametrize("block", SIGNATURES, ids=lambda one: one.directive.split(".", 1)[1])
def test_signatures(block: Block) -> None:
    target = resolve(block.directive.partition(": ")[2])
    (function,) = ast.parse(block.code).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    if not inspect.isclass(target):
        assert inspect.iscoroutinefunction(target) == isinstance(function, ast.AsyncFunctionDef)
    parameters = [
        one
        for one in inspect.signature(target).parameters.values()
        if one.name != "self" and not one.name.startswith("_")
    ]
    documented = described(function)
    assert [one[0] for one in documented] == [one.name for one in parameters]
    for parameter, (name, keyword_only, annotation, default) in zip(
        parameters, documented, strict=True
    ):
        assert (parameter.kind is parameter.KEYWORD_ONLY) == keyword_only, name
        assert normal(parameter.annotation) == annotation, name
        assert default_of(parameter, default) == default, name


def public_methods(owner: type) -> set[str]:
    """Its own and those of the parts that it is made of."""
    found = inspect.getmembers(owner, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def test_nothing_public_is_left_out() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    documented = {block.directive.partition(": ")[2] for block in SIGNATURES}
    for owner in (
        pgconductor.Conductor,
        pgconductor.ExecutionHandle,
        services.ExecutionService,
        services.OrchestratorService,
    ):
        held = {path.rpartition(".")[2] for path in documented if f".{owner.__name__}." in path}
        # What the conductor offers to its tasks and handles is not for users.
        inner = {"write", "write_sync", "watch", "check_queue_known", "rerouted"}
        inner |= {"emit_text", "emit_text_sync"}
        hidden = inner if owner is pgconductor.Conductor else set()
        assert public_methods(owner) - hidden == held, owner.__name__
    for name in (*pgconductor.__all__, "Orchestrator", *models.__all__[3:]):
        assert f"`{name}`" in page, name
    for name in testing.__all__:
        assert name in page or re.fullmatch(r"Fake\w+Repository|\w+Row", name), name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f"- {page.relative_to(DOCS).as_posix()}\n" in navigation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_we_use_our_own_words(page: Path) -> None:
    foreign = r"\b(jobs?|workflows?|simply|just)\b"
    text = page.read_text(encoding="utf-8")
    assert not re.findall(foreign, text, re.IGNORECASE)
