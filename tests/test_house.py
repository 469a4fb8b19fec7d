"""The house stands as its plan says: floors, light help, no circles, no overgrown files."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlplatform"
HEAVY = {"mlflow", "torch", "sklearn", "sqlalchemy", "pandas", "pyarrow", "onnxruntime", "onnx", "matplotlib"}
AT_HOME = {
    "mlflow": (),
    "torch": (),
    "sklearn": (),
    "onnx": (),
    "onnxruntime": (),
    "sqlalchemy": ("state",),
    "pandas": ("data",),
    "pyarrow": ("data",),
    "matplotlib": ("report",),
}
"""Folders whose modules may import a heavy package when they are loaded; the others do so inside functions."""

LONGEST_FILE, LONGEST_FUNCTION = 500, 80
LONG_ON_PURPOSE: dict[str, int] = {}
"""Every protocol on one page."""


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "template" not in path.parts]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_import_goes_down() -> None:
    seen = lint_imports(ROOT)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "0 broken" in seen.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("flows/promote.py", "import mlflow", "mlflow only where"),
        ("serving/app.py", "import mlplatform.state.engine", "The data plane"),
        ("serving/app.py", "import mlplatform.control", "Floors"),
        ("domain/version.py", "import mlplatform.ports.state", "Floors"),
        ("flows/promote.py", "import sqlalchemy", "SQL only"),
    ],
)
def test_a_planted_import_turns_the_floors_red(module: str, line: str, contract: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "mlplatform", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "mlplatform" / module
    planted.write_text(planted.read_text() + f"\n\ndef planted() -> None:\n    {line}\n")
    seen = lint_imports(tmp_path)
    assert seen.returncode == 1, seen.stdout + seen.stderr
    assert re.search(rf"{contract}.*BROKEN", seen.stdout)


def test_the_picture_in_the_docs_is_the_checked_one() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract for contract in contracts if contract["id"] == "floors")
    page = (ROOT / "docs" / "architecture.md").read_text()
    picture = next(block for block in re.findall(r"```\n(.*?)```", page, re.DOTALL) if "__main__" in block)
    drawn = [re.split(r"  ", line)[0].strip() for line in picture.splitlines()]
    assert drawn == floors["layers"]


def test_help_loads_nothing_heavy() -> None:
    seen, loaded = fresh_process("-m", "mlplatform", "--help")
    assert "Usage: mlplatform" in seen.stdout
    assert not loaded & HEAVY


def test_importing_the_package_loads_nothing_heavy() -> None:
    _, loaded = fresh_process("-c", "import mlplatform")
    assert not loaded & HEAVY


def test_a_server_needs_neither_mlflow_nor_sql_nor_tables() -> None:
    _, loaded = fresh_process("-c", "import mlplatform.serving.app, mlplatform.serving.main")
    assert not loaded & {"mlflow", "torch", "sklearn", "sqlalchemy", "pandas", "pyarrow"}


def fresh_process(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A Python that did this, and the packages that it loaded; prints its CPU time."""
    before = os.times()
    command = [sys.executable, "-X", "importtime", *arguments]
    seen = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    cpu_ms = 1000 * (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    print(f"{' '.join(arguments)}: {cpu_ms:.0f} ms of CPU")
    loaded = set(re.findall(r"\| +(\w+)$", seen.stderr, re.MULTILINE))
    assert "re" in loaded or "os" in loaded
    return seen, loaded


def test_heavy_packages_are_imported_only_on_use() -> None:
    early = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        for name in imported_on_loading(ast.parse(path.read_text()).body) & HEAVY
        if path.relative_to(PACKAGE).parts[0] not in AT_HOME[name]
    ]
    assert early == []


def imported_on_loading(body: list[ast.stmt]) -> set[str]:
    """Top-level packages that a module imports when it is loaded, outside functions and `if TYPE_CHECKING`."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ClassDef | ast.With | ast.Try):
            found |= imported_on_loading(node.body)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            found |= imported_on_loading(node.body) | imported_on_loading(node.orelse)
    return found


def test_no_file_and_no_function_is_overgrown() -> None:
    overgrown = []
    for path in modules():
        name, text = str(path.relative_to(PACKAGE)), path.read_text()
        if (lines := text.count("\n")) > LONG_ON_PURPOSE.get(name, LONGEST_FILE):
            overgrown.append(f"{name}: {lines} lines")
        overgrown += [
            f"{name}:{node.lineno} {node.name}: {length} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
        ]
    assert overgrown == []


def test_every_name_in_the_catalog_leads_to_a_class() -> None:
    from mlplatform import catalog

    for kind in catalog.kinds():
        for name in catalog.names(kind):
            assert isinstance(catalog.find(kind, name), type), f"{kind} {name}"


def test_the_wheel_brings_its_own_migrations_and_templates(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    code = (
        "from pathlib import Path; from mlplatform.config.templates import write_project;"
        "from mlplatform.state.schema import migrations_folder, upgrade;"
        f"upgrade('sqlite:///{tmp_path}/platform.db'); write_project(Path('{tmp_path}/new'), 'churn');"
        "print(migrations_folder())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    seen = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == str(tmp_path / "installed" / "mlplatform" / "_migrations")
    assert (tmp_path / "platform.db").is_file()
    assert (tmp_path / "new" / "train.py").is_file()
