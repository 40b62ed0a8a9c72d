from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "typing", "tests"]

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
REQUIREMENTS = Path("requirements")

# Lock -> what of pyproject.toml it pins. dev.txt comes first: the smaller ones follow its pins.
LOCKS = {
    "dev.txt": ["pyproject.toml", "--extra=dev,psycopg,testing,uvloop", "--group=dev"],
    "demo.txt": ["pyproject.toml", "--extra=dev", "--constraints=requirements/dev.txt"],
    "build.txt": ["--group=build", "--constraints=requirements/dev.txt"],
}


def install(session: nox.Session) -> None:
    """Install the lock with its hashes, then the project; with --no-venv both are there already."""
    if session.virtualenv.is_sandboxed:
        session.install("--require-hashes", "-r", "requirements/dev.txt")
        session.install("--no-build-isolation", "--no-deps", "-e", ".")


def compile_locks(session: nox.Session, target: Path, *options: str) -> None:
    """Write every lock into the target folder, keeping the pins that it already holds there."""
    for name, what in LOCKS.items():
        session.run(
            "uv", "pip", "compile", "--quiet", *what, *options,
            "--universal", "--python-version=3.11", "--generate-hashes",
            "--no-strip-extras",  # older pips resolve package[extra] apart from the pinned package
            "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command=nox -s lock",
            f"--output-file={target / name}",
            silent=True,
        )  # fmt: skip


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite on every Python found."""
    install(session)
    session.run("python", "-m", "pytest", "-n", "logical", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, architecture, the locks, and known vulnerabilities."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")
    _check_locks(session)
    _audit(session)


def _check_locks(session: nox.Session) -> None:
    folder = Path(session.create_tmp()).absolute() / "locks"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REQUIREMENTS, folder)
    try:
        compile_locks(session, folder)
    except nox.command.CommandFailed:
        session.warn("SKIPPED: the locks were not compared, uv could not resolve (no index?)")
        return
    stale = [name for name in LOCKS if _read(REQUIREMENTS, name) != _read(folder, name)]
    if stale:
        session.error(f"out of step with pyproject.toml: {', '.join(stale)}; run nox -s lock")


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _audit(session: nox.Session) -> None:
    report = Path(session.create_tmp()).absolute() / "audit.json"
    report.unlink(missing_ok=True)
    session.run(
        "pip-audit", "--disable-pip", "--require-hashes", "-r", "requirements/dev.txt",
        "--progress-spinner=off", "--format=json", f"--output={report}",
        success_codes=[0, 1], silent=True,
    )  # fmt: skip
    found = json.loads(report.read_text("utf-8"))["dependencies"] if report.exists() else []
    audited = [entry for entry in found if "skip_reason" not in entry]
    if not audited:
        session.warn("SKIPPED: pip-audit could not reach its advisory source")
    for entry in audited:
        for hole in entry["vulns"]:
            session.warn(f"{entry['name']} {entry['version']}: {hole['id']} {hole['fix_versions']}")
    if any(entry["vulns"] for entry in audited):
        session.error("known vulnerabilities in the locked dependencies")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types with mypy and with pyright at the same time; each tells all at its end."""
    install(session)
    with ThreadPoolExecutor() as pool:
        checks = [
            pool.submit(session.run, name, *session.posargs, silent=True)
            for name in ("mypy", "pyright")
        ]
    # What a failed one has said, nox has shown already.
    for said in [check.result() for check in checks if check.exception() is None]:
        session.log(said)
    for check in checks:
        check.result()


@nox.session
def schema(session: nox.Session) -> None:
    """Lint the revisions, apply them there and back, and let older releases' tests meet them."""
    install(session)
    # -rP shows what revisions answer to the linter.
    ours = "tests/migrations/test_linting.py::test_our_revisions"
    session.run("python", "-m", "pytest", "-q", "-rP", ours)
    session.run("python", "-m", "pytest", "-n", "logical", "tests/migrations", *session.posargs)
    session.run("python", "-m", "tests.support.yesterday", "-n", "logical")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel; in an empty environment migrate a fresh database and execute a task."""
    session.install("--require-hashes", "-r", "requirements/build.txt")
    folder = Path(session.create_tmp()).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    session.run("hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder / "dist"))
    empty = folder / "empty"
    session.run(sys.executable, "-m", "virtualenv", "-q", str(empty), external=True)
    python = str(empty / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    (built,) = (folder / "dist").glob("*.whl")
    demo = ("--require-hashes", "-r", "requirements/demo.txt")
    session.run(*pip, "install", "-qq", *demo, external=True)
    session.run(*pip, "install", "-qq", "--no-deps", str(built), external=True)
    session.run(*pip, "check", external=True)
    check = Path("tests/acceptance/wheel_check.py").absolute()
    with session.chdir(folder):
        session.run(python, "-I", str(check), external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration that newcomers see."""
    install(session)
    session.run("pgconductor", "demo", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; `nox -s bench -- --peers all` measures other engines too."""
    install(session)
    if not Path("benchmarks/__main__.py").exists():
        session.skip("there are no benchmarks yet")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; strict mode refuses links to pages or anchors that do not exist."""
    install(session)
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def lock(session: nox.Session) -> None:
    """Regenerate requirements/; `nox -s lock -- --upgrade` takes the newest releases."""
    if session.virtualenv.is_sandboxed:
        session.install("--require-hashes", "-r", "requirements/dev.txt")
    compile_locks(session, REQUIREMENTS, *session.posargs)
