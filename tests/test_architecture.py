"""Imports inside the package go down only: this table says for every room what it holds and on which level it stands."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "torchthin"

ROOMS: dict[str, tuple[int, str]] = {
    "errors": (1, "the exception tree; imports nothing"),
    "config": (2, "targets, options, and how files are opened; imports errors"),
    "graph": (3, "a model run once, as data; imports config"),
    "dependency": (4, "labels on axes and groups; imports graph"),
    "importance": (5, "scores; imports dependency"),
    "selection": (6, "scores and a target become a selection; imports importance"),
    "thinning": (7, "a selection becomes a smaller model; imports selection"),
    "io": (8, "files and data; imports thinning"),
    "report": (8, "facts and their text; imports thinning"),
    "evaluation": (9, "how good and how fast; imports io, report"),
    "recovery": (10, "accuracy won back; imports evaluation"),
    "pruning": (11, "the pipelines; imports recovery"),
    "max7800x": (12, "Analog Devices' chips; imports pruning"),
    "api": (13, "every public function; imports max7800x"),
    "integrations": (14, "callbacks of training frameworks, models of other packages; imports api"),
    "cli": (15, "the command line; imports api"),
}
ANYWHERE = "torchthin.report.tables"
"""Imports nothing, so every room may."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").replace("__main__", "cli")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {
            name.split(".")[1]
            for name in names
            if name.startswith("torchthin.") and not name.startswith(ANYWHERE)
        }
    return rooms & set(ROOMS)


def test_every_room_has_a_level() -> None:
    rooms = {room_of(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms <= set(ROOMS), f"add to ROOMS: {rooms - set(ROOMS)}"


def test_what_every_room_may_import_imports_nothing() -> None:
    assert not imported_rooms(PACKAGE.parent / f"{ANYWHERE.replace('.', '/')}.py")


def test_imports_go_down() -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path in PACKAGE.rglob("*.py")
        if room_of(path) != "__init__"
        for target in imported_rooms(path)
        if target != room_of(path) and ROOMS[target][0] >= ROOMS[room_of(path)][0]
    }
    assert wrong == set()


def test_functions_fit_a_screen() -> None:
    """At most 45 lines without the docstring: what is longer is two things, or a table that belongs outside."""
    long = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                start = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
                if (node.end_lineno or 0) - node.lineno + 1 - start > 45:
                    long.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert long == []
