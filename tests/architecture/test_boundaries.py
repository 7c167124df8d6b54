"""House rules that no linter knows, each with the reason it exists."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT, calls, dotted, product_sources

TORCH_FREE = (
    "services.api.app",
    "services.tokenizer.run",
    "services.tokenizer.__main__",
    "services.trainer.__main__",
    "services.inference.scheduler",
    "shared.jobs.worker.supervisor",
    "shared.text.tokenizer",
    "ryangpt.cli",
)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_loads_without_torch(module: str) -> None:
    """An import contract misses a package `__init__` that imports torch; a fresh process cannot."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'xformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_package_files_are_empty() -> None:
    """So importing a leaf never drags in its siblings."""
    full = [
        str(path.relative_to(ROOT))
        for package in ("shared", "services")
        for path in (ROOT / package).rglob("__init__.py")
        if path.stat().st_size
    ]
    assert full == []


def test_only_the_settings_read_the_environment() -> None:
    """Otherwise nobody can say what a process depends on."""
    readers = {
        source.path
        for source in product_sources()
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and dotted(node) == "os.environ")
        or (isinstance(node, ast.Call) and dotted(node.func) == "os.getenv")
    }
    assert readers == {"shared/base/settings.py"}


def test_only_the_session_commits() -> None:
    """One commit per unit of work: a helper that commits breaks every fence around it."""
    committers = {
        source.path
        for source in product_sources()
        for name, _ in calls(source)
        if name.endswith(".commit") or name == "session.begin"
    }
    assert committers <= {"shared/db/session.py"}


def test_sql_stays_in_the_database_package() -> None:
    """Queries are reviewed in one place, on both databases."""
    names = {"select", "insert", "update", "delete", "text"}
    strays = [
        f"{source.path}:{node.lineno}"
        for source in product_sources()
        if not source.path.startswith("shared/db/")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").split(".")[0] == "sqlalchemy"
        and names & {alias.name for alias in node.names}
    ]
    assert strays == []


def test_only_the_queue_module_sends_tasks() -> None:
    """A send in a request handler blocks it when the broker is away, and is lost on rollback."""
    senders = {
        source.path
        for source in product_sources()
        for name, _ in calls(source)
        if name.rsplit(".", 1)[-1] in {"send_task", "apply_async", "delay"}
    }
    assert senders <= {"shared/jobs/queue.py"}


def test_nothing_unpickles_evaluates_or_opens_a_shell() -> None:
    """A checkpoint or a message from a stranger must never be able to run code."""
    banned_calls = {"eval", "exec", "torch.load", "os.system", "os.popen"}
    banned_modules = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
    found = [
        f"{source.path}:{line} {name}"
        for source in product_sources()
        for name, line in calls(source)
        if name in banned_calls
    ]
    for source in product_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                found += [f"{source.path}:{node.lineno} {m}" for m in modules & banned_modules]
            if isinstance(node, ast.keyword) and node.arg in {"shell", "allow_pickle"}:
                safe = isinstance(node.value, ast.Constant) and node.value.value is False
                found += [] if safe else [f"{source.path} {node.arg}="]
    assert found == []


def test_nobody_raises_a_bare_exception() -> None:
    """A reader can act on `NotFoundError`; on `Exception` nobody can."""
    bare = [
        f"{source.path}:{node.lineno}"
        for source in product_sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and dotted(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        in {"Exception", "BaseException", "HTTPException"}
    ]
    assert bare == []
