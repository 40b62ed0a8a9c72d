"""Each example does what it says, as the reader would execute it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgconductor import Settings
from pgconductor.cli import ExitCode
from pgconductor.cli.root import root
from pgconductor.domain.migrations import MigrationOptions
from pgconductor.domain.revisions import KNOWN_REVISION
from pgconductor.schema import script_location
from tests.support.processes import UNMEASURED
from tests.support.servers import Server, connect

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def python(*arguments: str | Path, cwd: Path = EXAMPLES, url: str | None = None) -> str:
    """What a Python process prints; it must end well."""
    env = {**os.environ, **UNMEASURED, "PYTHONPATH": str(ROOT)}
    for name in ("PGCONDUCTOR_DATABASE_URL", "DATABASE_URL"):
        env.pop(name, None)
    if url is not None:
        env["PGCONDUCTOR_DATABASE_URL"] = url
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_order_and_its_execution_commit_together(database_url: str) -> None:
    printed = python("order_service.py", url=database_url)
    assert printed.splitlines() == [
        "order 2 was rolled back",
        "completed: To ada@example.org: your order 1 is confirmed.",
        "To eve@example.org: your order 3 is confirmed.",
    ]


def test_a_sync_session_invokes(database_url: str) -> None:
    assert python("sync_session.py", url=database_url) == "build_report completed: 7\n"


def test_the_services_alone_make_a_worker_loop(database_url: str) -> None:
    lines = python("own_worker_loop.py", url=database_url).splitlines()
    assert lines[0].startswith("count_letters: completed after 1 attempts: {'e': 1,")
    assert lines[1:] == [
        "refuse: failed after 2 attempts: ValueError: cannot read None",
        "0 orchestrators are left",
    ]


def test_without_a_database_an_example_brings_its_own() -> None:
    assert python("sync_session.py") == "build_report completed: 7\n"


def test_a_web_application_migrates_and_works(empty_database_url: str) -> None:
    done = "To ada@example.org: welcome."
    for schema in (
        f"schema nothing → {KNOWN_REVISION:04d}",
        f"{KNOWN_REVISION:04d}: nothing to do",
    ):
        first, second = python("web_lifespan.py", url=empty_database_url).splitlines()
        assert first.endswith(schema)
        assert second == done


def test_a_web_application_does_not_start_on_what_is_too_new(database_url: str) -> None:
    ahead = KNOWN_REVISION + 1
    with connect(database_url) as connection:
        connection.execute(
            "INSERT INTO pgconductor.schema_migrations (version, name, breaking)"
            " VALUES (%s, 'of the future', true)",
            (ahead,),
        )
        connection.execute(
            "UPDATE pgconductor.schema_gate SET installed = %s, floor = %s", (ahead, ahead)
        )
        connection.execute(
            "UPDATE pgconductor.pgconductor_version SET version_num = %s", (f"{ahead:04d}",)
        )
    with pytest.raises(AssertionError, match="the database is too new for this release"):
        python("web_lifespan.py", url=database_url)


# --- Kubernetes ----------------------------------------------------------------------------------


def manifest(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text(encoding="utf-8"))


def container_of(found: Any) -> Any:
    (container,) = found["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("name", ["migrate.yaml", "workers.yaml"])
def test_the_command_of_a_container_exists(name: str) -> None:
    program, command, *arguments = container_of(manifest(name))["command"]
    assert program == "pgconductor"
    asked = CliRunner().invoke(root, [command, "--help"])
    assert asked.exit_code == 0
    assert all(one in asked.output for one in arguments if one.startswith("--"))
    for variable in container_of(manifest(name))["env"]:
        assert variable["name"].removeprefix("PGCONDUCTOR_").lower() in Settings.model_fields


def test_a_migration_that_cannot_succeed_is_not_tried_again() -> None:
    found = manifest("migrate.yaml")
    spec = found["spec"]
    (rule,) = [one for one in spec["podFailurePolicy"]["rules"] if one["action"] == "FailJob"]
    assert [ExitCode(code).name for code in rule["onExitCodes"]["values"]] == [
        "USAGE",
        "SCHEMA_TOO_NEW",
        "PRIVILEGE",
        "POOLED",
        "REVISION_FAILED",
        "HISTORY",
    ]
    assert rule["onExitCodes"]["containerName"] == container_of(found)["name"]
    # Kubernetes refuses the policy otherwise.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    patience = MigrationOptions()
    longest = patience.lease_wait + patience.drain_timeout + patience.lock_wait
    assert spec["activeDeadlineSeconds"] > longest.total_seconds()


def test_workers_have_the_time_to_stop() -> None:
    spec = manifest("workers.yaml")["spec"]
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= Settings().shutdown_grace.total_seconds() + 25
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


# --- without a database --------------------------------------------------------------------------


#: Not as a module, which would have the working directory on the path.
PYTEST = (
    *("-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"),
    *("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "pgconductor.testing.plugin"),
)


def test_fakes_need_no_database() -> None:
    # As its docstring says.
    printed = python(*PYTEST, "examples/testing_with_fakes", cwd=ROOT)
    assert "3 passed" in printed


def test_durable_handlers_are_tested(server: Server) -> None:
    printed = python(
        *(*PYTEST, f"--pgconductor-url={server.url_for('postgres')}", "examples/testing_durable"),
        cwd=ROOT,
    )
    assert "7 passed" in printed


@pytest.fixture
def own_project(tmp_path: Path) -> Path:
    """A copy of the project, for a checkout that is not installed has no pgconductor:migrations."""
    project = tmp_path / "own_alembic"
    shutil.copytree(EXAMPLES / "own_alembic", project)
    ini = project / "alembic.ini"
    text = ini.read_text(encoding="utf-8")
    assert "script_location = pgconductor:migrations" in text
    ini.write_text(text.replace("pgconductor:migrations", str(script_location())), encoding="utf-8")
    return project


def alembic(project: Path, url: str, *arguments: str) -> str:
    return python("-m", "alembic", *arguments, cwd=project, url=url)


def test_two_histories_live_beside_each_other(own_project: Path, empty_database_url: str) -> None:
    alembic(own_project, empty_database_url, "upgrade", "head")
    alembic(own_project, empty_database_url, "-n", "pgconductor", "upgrade", "head")
    assert "(head)" in alembic(own_project, empty_database_url, "-n", "pgconductor", "current")
    # The application's autogenerate sees nothing of ours, and ours nothing of the application's.
    for section in ((), ("-n", "pgconductor")):
        printed = alembic(own_project, empty_database_url, *section, "check")
        assert "No new upgrade operations" in printed
    alembic(own_project, empty_database_url, "downgrade", "base")
    assert "(head)" in alembic(own_project, empty_database_url, "-n", "pgconductor", "current")


def test_without_include_name_autogenerate_would_drop_our_tables(
    own_project: Path, empty_database_url: str
) -> None:
    """What docs/alembic.md warns of; if it is true no more, the warning can go."""
    environment = own_project / "migrations" / "env.py"
    text = environment.read_text(encoding="utf-8")
    environment.write_text(text.replace("include_name=include_name,", ""), encoding="utf-8")
    alembic(own_project, empty_database_url, "upgrade", "head")
    alembic(own_project, empty_database_url, "-n", "pgconductor", "upgrade", "head")
    with pytest.raises(AssertionError, match="remove_table"):
        alembic(own_project, empty_database_url, "check")
