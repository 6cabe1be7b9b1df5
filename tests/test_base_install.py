"""The base install is honest: what the package imports is declared, and it works with nothing else there."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "torchthin"
DEMO = ROOT / "pose_demo"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MODULES = {"PyYAML": "yaml", "pillow": "PIL", "scipy-stubs": "scipy", "ruamel.yaml": "ruamel"}
"""What packages are called in import statements, where that is not their name."""


def _array(name: str) -> str:
    match = re.search(rf"^{name} = \[(.*?)\]", PROJECT, re.DOTALL | re.MULTILINE)
    assert match is not None, name
    return match[1]


def _imported_as(requirements: str) -> set[str]:
    names = re.findall(r'"([A-Za-z][A-Za-z0-9_.-]*)[^"]*"', requirements)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


DECLARED = _imported_as(_array("dependencies"))
EXTRAS = _imported_as(
    "".join(
        _array(name)
        for name in (
            "pose-data", "coco", "images", "lightning", "hf", "export", "plot", "search", "synthesis", "zoo", "bench",
        )
    )
)  # fmt: skip


def _imports(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
    """Yield (top-level module, inside a function) for every import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").partition(".")[0], lazy
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, lazy or inside)


def foreign(source: str, *own: str) -> list[tuple[str, bool]]:
    """Return what is imported that is neither Python's nor one of `own`: the package knows no other name here."""
    known = {*sys.stdlib_module_names, "torchthin", *own}
    return [(name, lazy) for name, lazy in _imports(ast.parse(source), lazy=False) if name not in known]


def test_declarations_are_read() -> None:
    assert {"torch", "numpy", "scipy", "safetensors", "rich", "yaml", "jinja2"} == DECLARED
    assert {"PIL", "pycocotools"} <= EXTRAS
    assert "torchvision" not in DECLARED


def test_imports_are_seen() -> None:
    source = (
        "import os, numpy.linalg\nclass A:\n    import rich\ndef f():\n    def g(): from PIL import Image\n"
    )
    assert foreign(source) == [("numpy", False), ("rich", False), ("PIL", True)]


def test_every_import_is_declared() -> None:
    """Of packages that are installed with the package, or inside a function of those of an extra."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name} is not declared, or not imported lazily"
        for path in (*PACKAGE.rglob("*.py"), *DEMO.rglob("*.py"))
        for name, lazy in foreign(
            path.read_text(encoding="utf-8"), *["pose_demo"] * path.is_relative_to(DEMO)
        )
        if name not in DECLARED and not (lazy and name in EXTRAS)
    ]
    assert wrong == []


ALONE = """
import importlib, importlib.abc, importlib.util, sys

allowed, modules = set(sys.argv[1].split()), sys.argv[2].split()

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
        return None

sys.meta_path.insert(0, Guard())
seek = importlib.util.find_spec  # torch asks whether packages are there
importlib.util.find_spec = lambda name, *rest: seek(name, *rest) if name.partition(".")[0] in allowed else None
import torchthin
for name in torchthin.__all__:
    getattr(torchthin, name)
torch = sys.modules["torch"]
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 1))
assert torchthin.prune(net, torch.randn(1, 3, 8, 8)).model[0].out_channels == 4
assert hasattr(torch.compiler, "set_stance") <= ("torch._dynamo" not in sys.modules), "tracing imports torch's compiler"
for name in modules:
    importlib.import_module(name)
"""


def _with_their_own_dependencies(names: set[str]) -> set[str]:
    """Return what may be imported: the declared packages, and what they require themselves."""
    distributions = metadata.packages_distributions()
    module_of: dict[str, set[str]] = {}
    for module, found in distributions.items():
        for distribution in found:
            module_of.setdefault(_normal(distribution), set()).add(module)
    waiting = [_normal(distribution) for name in names for distribution in distributions[name]]
    seen: set[str] = set()
    while waiting:
        distribution = waiting.pop()
        if distribution in seen or distribution not in module_of:
            continue
        seen.add(distribution)
        for requirement in metadata.requires(distribution) or []:
            if "extra ==" not in requirement:
                found_name = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert found_name is not None
                waiting.append(_normal(found_name[0]))
    return {module for distribution in seen for module in module_of[distribution]}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_everything_imports_and_prunes_without_undeclared_packages() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in (PACKAGE, DEMO)
        for path in sorted(folder.rglob("*.py"))
    ]
    allowed = {*sys.stdlib_module_names, "torchthin", "pose_demo", *_with_their_own_dependencies(DECLARED)}
    assert "pytest" not in allowed
    assert "torchvision" not in allowed
    config = Path(sysconfig.get_paths()["stdlib"])
    allowed |= {path.stem for path in config.glob("_sysconfigdata*.py")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, " ".join(sorted(allowed)), " ".join(modules)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("torchthin", "pose_demo", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "data")
        )
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"torchthin/py.typed", "torchthin/report/templates/page.html.j2"} <= held
