"""The order of imports, and what is in the wheel."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Ground floor first; what stands on one line may import each other.
ORDER = (
    (
        "genzoo.errors",
        "genzoo.types",
        "genzoo.progress",
        "genzoo.files",
        "genzoo.machine",
        "genzoo.rates",
        "genzoo.compat",
        "genzoo.notebook",
    ),
    ("genzoo.data.ranges",),
    ("genzoo.noise",),
    ("genzoo.model",),
    ("genzoo.ranks",),
    ("genzoo.registry",),
    ("genzoo.data",),
    ("genzoo.nets", "genzoo.samplers", "genzoo.denoiser_likelihood"),
    ("genzoo.models",),
    ("genzoo.ops", "genzoo.checks", "genzoo.strips"),
    ("genzoo.samples",),
    ("genzoo.runs",),
    ("genzoo.training",),
    ("genzoo.sampling", "genzoo.illustration"),
    ("genzoo.evaluation",),
    ("genzoo.arguments",),
    ("genzoo.pipeline",),
    ("genzoo.jobs", "genzoo.experiment"),
    ("genzoo.doctor",),
    ("genzoo.course",),
    ("genzoo_reports",),
    ("genzoo",),
    ("genzoo_cli",),
)
# Upward imports that are meant, with their reason.
ALLOWED = {
    ("genzoo.experiment", "genzoo_reports"): "a comparison ends with its report",
    ("genzoo.samples", "genzoo_reports"): "samples show themselves in a notebook",
    ("genzoo.runs", "genzoo_reports"): "a run shows itself in a notebook",
    ("genzoo.evaluation", "genzoo_reports"): "scores show themselves in a notebook",
}
REPORT_MAY = {
    "genzoo.errors",
    "genzoo.evaluation.catalogue",
    "genzoo.evaluation.statistics",
    "genzoo.files",
    "genzoo.progress",
    "genzoo.registry",
    "genzoo.runs",
    "genzoo.samples",
    "genzoo.types",
}
NO_TORCH = (
    "genzoo",
    "genzoo.data",
    "genzoo.errors",
    "genzoo.evaluation.catalogue",
    "genzoo.jobs",
    "genzoo.registry",
    "genzoo.runs",
    "genzoo.samples",
    "genzoo.types",
    "genzoo_cli.main",
    "genzoo_reports.report",
)


def modules() -> dict[str, Path]:
    """Every module of the distribution by its dotted name."""
    found = {}
    for root in (ROOT, ROOT / "cli", ROOT / "reports"):
        for path in root.glob("genzoo*/**/*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports when it runs or when its functions do; not for types alone."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def layer(module: str) -> tuple[int, str]:
    """Floor and room of a module: those of the longest name that contains it."""
    rooms = [
        (len(room), floor, room)
        for floor, names in enumerate(ORDER)
        for room in names
        if module == room or (module.startswith(room + ".") and room != "genzoo")
    ]
    assert rooms, f"{module} has no place in the order"
    _, floor, room = max(rooms)
    return floor, room


def own_imports(module: str) -> list[str]:
    return [name for name in imports(MODULES[module]) if name.split(".")[0] in _ROOTS]


_ROOTS = ("genzoo", "genzoo_cli", "genzoo_reports")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    floor, room = layer(module)
    for name in own_imports(module):
        below, target = layer(name)
        if (room, target) in ALLOWED or target == room:
            continue
        if name == "genzoo" and _takes_only_version(MODULES[module]):
            continue
        assert below <= floor, f"{module} (floor {floor}) imports {name} (floor {below})"


def _takes_only_version(path: Path) -> bool:
    """Whether a file wants nothing of the façade but the version, which is on the ground floor."""
    tree = ast.parse(path.read_text("utf-8"))
    wanted = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "genzoo"
        for alias in node.names
        if f"genzoo.{alias.name}" not in MODULES
    } | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "genzoo"
    }
    return wanted <= {"__version__"}


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from genzoo.experiment import compare\n"
        "def f():\n    from genzoo import training\n    import genzoo.runs\n"
    )
    assert set(imports(file)) == {"typing", "genzoo.training", "genzoo.runs"}
    assert layer("genzoo.training.loop")[0] > layer("genzoo.errors")[0]


@pytest.mark.parametrize(
    "module",
    sorted(m for m in MODULES if m.startswith(("genzoo.training", "genzoo.evaluation"))),
)
def test_training_and_evaluation_know_no_family(module: str) -> None:
    families = [name for name in own_imports(module) if name.startswith("genzoo.models")]
    assert not families


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("genzoo_reports")))
def test_the_report_knows_files_only(module: str) -> None:
    mine = {name for name in own_imports(module) if not name.startswith("genzoo_reports")}
    assert mine <= REPORT_MAY | ({"genzoo"} if _takes_only_version(MODULES[module]) else set())
    everything = {name.split(".")[0] for name in imports(MODULES[module])}
    allowed = {"numpy", "PIL", "matplotlib", "jinja2", "markupsafe", "fpdf", *_ROOTS}
    assert everything <= allowed | set(sys.stdlib_module_names)


def test_light_modules_import_no_torch() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'matplotlib.pyplot'}"
    code = "import sys, importlib\n"
    for name in NO_TORCH:
        code += f"importlib.import_module({name!r}); bad = {heavy} & set(sys.modules)\n"
        code += f"assert not bad, ({name!r}, bad)\n"
    path = ":".join(str(root) for root in (ROOT, ROOT / "cli", ROOT / "reports"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# -- the wheel ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel that setuptools builds from a copy of the sources."""
    place = tmp_path_factory.mktemp("wheel")
    copy = (
        "import shutil, sys\n"
        "for name in ('pyproject.toml', 'README.md', 'LICENSE'):\n"
        f"    shutil.copy({str(ROOT)!r} + '/' + name, name)\n"
        "ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')\n"
        "for name in ('genzoo', 'cli', 'reports', 'tests'):\n"
        f"    shutil.copytree({str(ROOT)!r} + '/' + name, name, ignore=ignore)\n"
        "from setuptools import build_meta\n"
        "print(build_meta.build_wheel('dist'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", copy], cwd=place, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[-1]
    with zipfile.ZipFile(place / "dist" / name) as file:
        return file.namelist()


def test_the_wheel_holds_every_module_and_nothing_else(wheel: list[str]) -> None:
    content = {name for name in wheel if ".dist-info/" not in name}
    expected = set()
    for root in (ROOT, ROOT / "cli", ROOT / "reports"):
        for package in root.glob("genzoo*"):
            if package.suffix == ".egg-info":
                continue
            expected |= {
                path.relative_to(root).as_posix()
                for path in package.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
    assert content == expected
    assert {"genzoo/py.typed", "genzoo_cli/main.py"} <= content
    assert any(name.startswith("genzoo_reports/templates/") for name in content)


def test_the_wheel_brings_the_licence_and_the_command(wheel: list[str]) -> None:
    inside = [name.split(".dist-info/")[1] for name in wheel if ".dist-info/" in name]
    assert "licenses/LICENSE" in inside
    assert "entry_points.txt" in inside
