"""Each rule of the linter: a revision that breaks it, and one that does the same safely."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from pgconductor.exceptions import RevisionMetadataError
from pgconductor.schema import lock_tables, revisions
from pgconductor.schema.linting import ANSWERABLE, FIRM, Finding, lint
from pgconductor.schema.linting.rendering import look_at_scripts
from tests.migrations.support import ROOT, add_revision, config_for, copy_of_revisions, in_thread


@dataclass(frozen=True)
class Case:
    """What a revision does, and what it does instead to be safe."""

    rule: str
    harm: str
    what: str
    safe: str | None = None
    back: str = ""


def locking(*tables: str) -> str:
    """What lock_tables() executes, in one line."""
    said: list[str] = []

    class Said:
        def execute(self, sqltext: sa.Executable | str, /) -> None:
            said.append(" ".join(str(sqltext).split()))

    lock_tables(Said(), *tables)
    return said[0]


ADD = "ALTER TABLE pgconductor.executions ADD "
ADD_TO_BOTH = f"{ADD}added int\nALTER TABLE pgconductor.steps ADD added int"
CHECK = "CONSTRAINT executions_added_check CHECK (attempts < 99)"
UNCHECK = "ALTER TABLE pgconductor.executions DROP CONSTRAINT executions_added_check"
DROP_ADDED = "ALTER TABLE pgconductor.executions DROP COLUMN added"
CASES = {
    "drop table": Case("gone", "DROP TABLE pgconductor.steps", "table steps"),
    "drop column": Case(
        "gone",
        "ALTER TABLE pgconductor.executions DROP COLUMN result CASCADE",
        "column executions.result",
    ),
    "rename table": Case("gone", "ALTER TABLE pgconductor.queues RENAME TO qs", "table queues"),
    "rename column": Case(
        "gone",
        "ALTER TABLE pgconductor.steps RENAME key TO name",
        "column steps.key",
        safe=f"{ADD}added text",
        back=DROP_ADDED,
    ),
    "drop function": Case(
        "gone",
        "DROP FUNCTION pgconductor.cancel_execution",
        "function cancel_execution(",
        safe="CREATE FUNCTION pgconductor.added(x int) RETURNS int LANGUAGE sql AS 'SELECT x'",
        back="DROP FUNCTION pgconductor.added",
    ),
    "drop constraint": Case(
        "gone",
        "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_pkey",
        "constraint steps.steps_pkey",
    ),
    "drop index": Case("gone", "DROP INDEX pgconductor.executions_ready_idx", "index executions."),
    "drop default": Case(
        "gone",
        "ALTER TABLE pgconductor.executions ALTER queue DROP DEFAULT",
        "default executions.queue",
    ),
    "drop in a DO block": Case(
        "gone", "DO 'BEGIN DROP TABLE pgconductor.steps; END'", "table steps"
    ),
    "alter type": Case(
        "changed",
        "ALTER TABLE pgconductor.tasks ALTER max_attempts TYPE bigint",
        "column tasks.max_attempts: integer -> bigint",
    ),
    "change a default": Case(
        "changed",
        "ALTER TABLE pgconductor.executions ALTER queue SET DEFAULT 'other'",
        "default executions.queue",
    ),
    "change a constraint": Case(
        "changed",
        "ALTER TABLE pgconductor.tasks DROP CONSTRAINT tasks_max_attempts_check,"
        " ADD CONSTRAINT tasks_max_attempts_check CHECK (max_attempts >= 2)",
        "constraint tasks.tasks_max_attempts_check",
    ),
    "change a composite": Case(
        "changed",
        "ALTER TYPE pgconductor.execution_spec ADD ATTRIBUTE added int",
        "type execution_spec",
        safe="CREATE TYPE pgconductor.added AS ENUM ('a')",
        back="DROP TYPE pgconductor.added",
    ),
    "change what a function returns": Case(
        "changed",
        "DROP FUNCTION pgconductor.uuidv7()\nCREATE FUNCTION pgconductor.uuidv7() RETURNS text"
        " LANGUAGE sql AS 'SELECT gen_random_uuid()::text'",
        "function uuidv7()",
    ),
    "required column": Case(
        "required",
        f"{ADD}added int NOT NULL",
        "column executions.added",
        safe=f"{ADD}added int NOT NULL DEFAULT 1",
        back=DROP_ADDED,
    ),
    "another signature": Case(
        "overloaded",
        "CREATE OR REPLACE FUNCTION pgconductor.cancel_execution(x int) RETURNS int LANGUAGE sql"
        " AS 'SELECT x'",
        "function cancel_execution(x integer)",
        safe="CREATE FUNCTION pgconductor.cancel_another(x int) RETURNS int LANGUAGE sql"
        " AS 'SELECT x'",
        back="DROP FUNCTION pgconductor.cancel_another",
    ),
    "volatile default": Case(
        "rewritten",
        f"{ADD}added timestamptz DEFAULT clock_timestamp()",
        "table executions",
        safe=f"{ADD}added timestamptz DEFAULT now()",
        back=DROP_ADDED,
    ),
    "generated column": Case(
        "rewritten",
        f"{ADD}added int GENERATED ALWAYS AS (attempts + 1) STORED",
        "table executions",
    ),
    "truncate": Case("rewritten", "TRUNCATE pgconductor.steps", "table steps"),
    "cluster": Case(
        "rewritten", "CLUSTER pgconductor.executions USING executions_pkey", "table executions"
    ),
    "set not null": Case(
        "scanned",
        "ALTER TABLE pgconductor.executions ALTER result SET NOT NULL",
        "executions is read under AccessExclusiveLock on executions",
    ),
    "check": Case(
        "scanned",
        ADD + CHECK,
        "executions is read under AccessExclusiveLock on executions",
        safe=f"{ADD}{CHECK} NOT VALID",
        back=UNCHECK,
    ),
    "validated at once": Case(
        "scanned",
        f"{ADD}{CHECK} NOT VALID\nALTER TABLE pgconductor.executions VALIDATE CONSTRAINT"
        " executions_added_check",
        "executions is read under AccessExclusiveLock on executions",
    ),
    "foreign key": Case(
        "scanned",
        f"{ADD}CONSTRAINT added_fkey FOREIGN KEY (task_key) REFERENCES pgconductor.tasks",
        "the rows for added_fkey are read under ShareRowExclusiveLock on executions",
        safe=f"{ADD}CONSTRAINT added_fkey FOREIGN KEY (task_key) REFERENCES pgconductor.tasks"
        " NOT VALID",
        back="ALTER TABLE pgconductor.executions DROP CONSTRAINT added_fkey",
    ),
    "index": Case(
        "built",
        "CREATE INDEX added_idx ON pgconductor.executions (queue)",
        "an index on executions is built under ShareLock on executions",
        safe="CREATE INDEX added_idx ON pgconductor.tasks (queue)",
        back="DROP INDEX pgconductor.added_idx",
    ),
    "unique": Case(
        "built",
        f"{ADD}CONSTRAINT added_key UNIQUE (id, queue)",
        "an index on executions is built under AccessExclusiveLock on executions",
    ),
    "primary key": Case(
        "built",
        "ALTER TABLE pgconductor.steps DROP CONSTRAINT steps_pkey, ADD PRIMARY KEY (key)",
        "an index on steps is built under AccessExclusiveLock on steps",
    ),
    "reindex": Case(
        "built",
        "REINDEX TABLE pgconductor.steps",
        "an index on steps is built under ShareLock on steps",
    ),
    "update": Case(
        "rows",
        "UPDATE pgconductor.executions SET priority = 0",
        "UPDATE of executions",
        safe="UPDATE pgconductor.tasks SET max_attempts = 3",
    ),
    "delete": Case(
        "rows", "DELETE FROM pgconductor.steps WHERE key = 'x'", "DELETE of steps"
    ),
    "update in a DO block": Case(
        "rows",
        "DO 'BEGIN UPDATE pgconductor.executions SET priority = 0; END'",
        "UPDATE of executions",
    ),
    "two tables": Case(
        "together",
        ADD_TO_BOTH,
        "AccessExclusiveLock on executions, AccessExclusiveLock on steps",
        safe=f"{locking('steps', 'executions')}\n{ADD_TO_BOTH}",
        back=f"{locking('executions', 'steps')}\nALTER TABLE pgconductor.executions DROP COLUMN"
        " added\nALTER TABLE pgconductor.steps DROP COLUMN added",
    ),
    "a key between two": Case(
        "together",
        "ALTER TABLE pgconductor.steps ADD CONSTRAINT added_fkey FOREIGN KEY (child_id)"
        " REFERENCES pgconductor.executions NOT VALID",
        "ShareRowExclusiveLock on executions, ShareRowExclusiveLock on steps",
    ),
    "locks too late": Case(
        "together",
        f"{ADD}added int\n{locking('executions', 'steps')}",
        "AccessExclusiveLock on executions, AccessExclusiveLock on steps",
    ),
    "too few locks": Case(
        "together",
        f"{locking('executions')}\n{ADD_TO_BOTH}",
        "AccessExclusiveLock on executions, AccessExclusiveLock on steps",
    ),
    "lock table": Case(
        "locked",
        "LOCK TABLE pgconductor.executions IN SHARE MODE",
        "ShareLock on executions",
        safe="LOCK TABLE pgconductor.tasks",
    ),
}  # fmt: skip


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return copy_of_revisions(tmp_path)


@pytest.fixture
def at_0001(database_url: str) -> str:
    """A database that the template made; when we ship more than 0001, it must go back."""
    in_thread(command.downgrade, config_for(database_url), "0001")
    return database_url


def findings(url: str, location: Path | None = None, *, since: int = 1) -> list[Finding]:
    given = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(given, poolclass=sa.NullPool)
    try:
        return lint(engine, location, since=since)
    finally:
        engine.dispose()


def revise(
    location: Path,
    statements: str,
    back: str = "",
    *,
    number: int = 2,
    breaking: bool = False,
    more: str = "irreversible = True",
) -> None:
    def body(name: str, script: str) -> str:
        parts = (f"    op.execute({part!r})\n" for part in script.splitlines())
        return f"def {name}():\n{''.join(parts) or '    pass'}"

    add_revision(
        location,
        f"{number:04d}",
        f"{number - 1:04d}",
        metadata=f"name = 'number {number}'\nbreaking = {breaking}\n{more}",
        change=body("change", statements),
        change_back=body("change_back", back),
    )


def of_rule(found: list[Finding], rule: str) -> list[str]:
    return [one.what for one in found if one.rule == rule and one.because is None]


# --- ours ----------------------------------------------------------------------------------------


def test_our_revisions(empty_database_url: str) -> None:
    """What they answer is shown with `pytest -rP`."""
    found = findings(empty_database_url, since=0)
    print(*found, sep="\n")
    assert [str(one) for one in found if one.because is None] == []


# --- what is done to a database in use -----------------------------------------------------------


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES.values()} == set(ANSWERABLE)
    assert {case.rule for case in CASES.values() if case.safe} == set(ANSWERABLE)


def test_every_rule_is_documented() -> None:
    page = (ROOT / "docs" / "revisions.md").read_text(encoding="utf-8")
    table = page.partition("| rule |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w ]+)` \|", table, re.MULTILINE) == [*ANSWERABLE, *FIRM]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_harm_is_found(at_0001: str, location: Path, case: Case) -> None:
    revise(location, case.harm)
    found = findings(at_0001, location)
    assert any(case.what in what for what in of_rule(found, case.rule)), found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_breaking_revision_may(at_0001: str, location: Path, case: Case) -> None:
    revise(location, case.harm, breaking=True)
    assert findings(at_0001, location) == []


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.safe],
    ids=[name for name, case in CASES.items() if case.safe],
)
def test_the_safe_way(at_0001: str, location: Path, case: Case) -> None:
    assert case.safe is not None
    revise(location, case.safe, case.back, more="")
    assert findings(at_0001, location) == []


def test_a_validation_of_its_own(at_0001: str, location: Path) -> None:
    """SET NOT NULL reads no rows when a constraint that holds says the same."""
    not_null = "CHECK (payload IS NOT NULL)"
    table = "ALTER TABLE pgconductor.executions"
    drop = f"{table} DROP CONSTRAINT added_check"
    revise(location, f"{ADD}CONSTRAINT added_check {not_null} NOT VALID", drop, more="")
    revise(location, f"{table} VALIDATE CONSTRAINT added_check", number=3, more="")
    nullable = f"{table} ALTER payload DROP NOT NULL"
    revise(location, f"{table} ALTER payload SET NOT NULL", nullable, number=4, more="")
    assert findings(at_0001, location) == []


def test_a_constraint_from_an_index(at_0001: str, location: Path) -> None:
    build_unique(location, 2)
    table = "ALTER TABLE pgconductor.steps"
    revise(
        location,
        f"{table} ADD CONSTRAINT added_key UNIQUE USING INDEX added_key",
        f"{table} DROP CONSTRAINT added_key\n"
        "CREATE UNIQUE INDEX added_key ON pgconductor.steps (key, execution_id)",
        number=3,
        more="safe_because = {'gone': 'the constraint owns the index'}",
    )
    (shown,) = findings(at_0001, location)
    assert str(shown) == "0003: gone: index steps.added_key (the constraint owns the index)"


def test_a_lock_on_one_table_while_another_is_read(at_0001: str, location: Path) -> None:
    revise(location, f"{ADD}CONSTRAINT added_check CHECK (attempts < 99) NOT VALID")
    revise(
        location,
        "ALTER TABLE pgconductor.steps ADD added text\n"
        "ALTER TABLE pgconductor.executions VALIDATE CONSTRAINT added_check",
        number=3,
    )
    assert of_rule(findings(at_0001, location), "scanned") == [
        "executions is read under AccessExclusiveLock on steps"
    ]


# --- answers -------------------------------------------------------------------------------------

DROP = "ALTER TABLE pgconductor.executions DROP COLUMN last_error_traceback"


def test_an_answer_is_shown(at_0001: str, location: Path) -> None:
    because = "no release reads it since 0001"
    revise(location, DROP, more=f"irreversible = True\nsafe_because = {{'gone': {because!r}}}")
    assert findings(at_0001, location) == [
        Finding(2, "gone", "column executions.last_error_traceback", because=because)
    ]


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ("{'gone': ''}", "'gone' has no reason"),
        ("{'gone': ' '}", "'gone' has no reason"),
        ("{'gone': None}", "'gone' has no reason"),
        ("{'gone': 'so', 'built': 'so'}", "'built' answers nothing"),
        ("'because I say so'", "'because I say so' answers nothing"),
        ("True", "True answers nothing"),
        ("{'wrapped': 'so'}", "'wrapped' answers nothing"),
    ],
)
def test_a_bad_answer(at_0001: str, location: Path, answers: str, complaint: str) -> None:
    revise(location, DROP, more=f"irreversible = True\nsafe_because = {answers}")
    assert of_rule(findings(at_0001, location), "answer") == [complaint]


def test_one_answer_is_none_for_another_rule(at_0001: str, location: Path) -> None:
    both = f"{DROP}\nUPDATE pgconductor.executions SET priority = 0"
    revise(location, both, more="irreversible = True\nsafe_because = {'gone': 'so'}")
    found = findings(at_0001, location)
    assert of_rule(found, "rows") == ["UPDATE of executions"]
    assert of_rule(found, "gone") == []


def test_an_answer_of_a_breaking_revision(at_0001: str, location: Path) -> None:
    """It has nothing to answer: what is left of an earlier thought is to go."""
    revise(location, DROP, breaking=True, more="irreversible=True\nsafe_because = {'gone': 'so'}")
    assert of_rule(findings(at_0001, location), "answer") == ["'gone' answers nothing"]


# --- what no revision may ------------------------------------------------------------------------

EXECUTE = "op.execute('SELECT 1')"
BODIES = {
    "nothing": ("pass", "wrapped"),
    "only a change": (EXECUTE, "wrapped"),
    "a change before": (f"{EXECUTE}; w = applying(op, revision, **GIVEN)", "wrapped"),
    "another name": ("w = applying(op, revision, name='other', breaking=breaking)", "wrapped"),
    "another number": ("w = applying(op, '0003', **GIVEN)", "wrapped"),
    "the opposite": (
        "w = applying(op, revision, name=name, breaking=not breaking)",
        "wrapped",
    ),
    "the wrong way": ("w = reverting(op, revision, **GIVEN)", "wrapped"),
    "a question": ("w = applying(op, revision, **GIVEN); op.get_bind().scalar(None)", "script"),
}


@pytest.mark.parametrize(("body", "rule"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("breaking", [False, True])
def test_how_it_is_wrapped(location: Path, body: str, rule: str, breaking: bool) -> None:
    revise(location, "", breaking=breaking)
    path = location / "versions" / "0002_added.py"
    source = path.read_text(encoding="utf-8")
    entered = "\n    with w:\n        pass" if "w = " in body else ""
    path.write_text(f"{source}\ndef upgrade():\n    {body}{entered}\n", encoding="utf-8")
    assert [one.rule for one in scripts(location)] == [rule]


def test_a_change_after(location: Path) -> None:
    revise(location, "")
    path = location / "versions" / "0002_added.py"
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("        change()\n", f"        change()\n    {EXECUTE}\n"))
    assert [one.rule for one in scripts(location)] == ["wrapped"]


def scripts(location: Path) -> list[Finding]:
    """What can be found without a database."""
    module = ScriptDirectory(str(location)).get_revision("0002").module
    return list(look_at_scripts(revisions(location)[1], module))


def test_an_undecided_revision(at_0001: str, location: Path) -> None:
    add_revision(location, "0002", "0001", metadata="name = 'x'\nbreaking = None")
    with pytest.raises(RevisionMetadataError, match="breaking must be True or False"):
        findings(at_0001, location)


@pytest.mark.parametrize(
    ("back", "complaint"),
    [
        ("", "it leaves another column executions.added"),
        ("ALTER TABLE pgconductor.nothing DROP added", 'relation "pgconductor.nothing" does not'),
        (f"{DROP_ADDED}\n{DROP}", "it leaves another column executions.last_error_traceback"),
    ],
)
@pytest.mark.parametrize("breaking", [False, True])
def test_the_way_back(
    at_0001: str, location: Path, back: str, complaint: str, breaking: bool
) -> None:
    again = "ALTER TABLE pgconductor.executions ADD IF NOT EXISTS added text"
    revise(location, again, back, breaking=breaking, more="")
    (found,) = of_rule(findings(at_0001, location), "way back")[:1]
    assert complaint in found


# --- outside a transaction -----------------------------------------------------------------------


def build_unique(location: Path, number: int, *, more: str = "", breaking: bool = False) -> None:
    add_revision(
        location,
        f"{number:04d}",
        f"{number - 1:04d}",
        metadata=f"name = 'an index'\nbreaking = {breaking}",
        change=(
            "from pgconductor.schema.concurrently import *\n"
            "def change():\n"
            "    create_index_concurrently(\n"
            "        op, 'added_key', 'steps', ['key', 'execution_id'], unique=True)\n"
            f"    {more}"
        ),
        change_back="def change_back():\n    drop_index_concurrently(op, 'added_key')",
    )


def test_an_index_by_the_helper(at_0001: str, location: Path) -> None:
    build_unique(location, 2)
    assert findings(at_0001, location) == []


@pytest.mark.parametrize(
    "more",
    [
        EXECUTE,
        "drop_index_concurrently(op, 'steps_other_idx')",
        "with op.get_context().autocommit_block(): pass",
    ],
)
def test_an_index_and_something_else(location: Path, more: str) -> None:
    build_unique(location, 2, more=more)
    assert [one.rule for one in scripts(location)] == ["alone"]


def test_an_index_in_a_breaking_revision(location: Path) -> None:
    build_unique(location, 2, breaking=True)
    assert {one.what for one in scripts(location)} == {
        "upgrade() is that of a breaking revision",
        "downgrade() is that of a breaking revision",
    }


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS x ON pgconductor.steps (key)",
        "VACUUM FULL pgconductor.steps",
        "ALTER TABLE pgconductor.executions ALTER result SET NOT NULL",
    ],
)
def test_a_block_of_ones_own(location: Path, statement: str) -> None:
    outside = f"with op.get_context().autocommit_block(): op.execute({statement!r})"
    add_revision(
        location,
        "0002",
        "0001",
        metadata="name = 'x'\nbreaking = False",
        change=f"def change():\n    {outside}",
    )
    assert [one.rule for one in scripts(location)] == ["alone"]
