"""Imports inside the package go down only: this table is the order, lowest first."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "torchthin"

LAYERS = [
    {"errors", "release"},
    {"schedule", "chips", "lines", "workers", "rows", "noise", "processes"},
    {"config"},
    {"trace"},
    {"groups", "computed"},
    {"labels"},
    {"importance", "targets"},
    {"balance"},
    {"selection"},
    {"masks", "patterns"},
    {"distiller"},
    {"cost", "proof"},
    {"thinning"},
    {"structured"},
    {"report", "mapping"},
    {"scan"},
    {"chipwise", "budgets"},
    {"checkpoints", "factory"},
    {"ai8x"},
    {"calibration"},
    {"recovery"},
    {"saving", "class_file"},
    {"pipeline", "in_place", "inspection", "overview", "reload", "chipcost"},
    {"gradual"},
    {"recovering", "pruner", "where_to_cut", "export", "synthesis"},
    {"bench"},
    {"integrations", "comparing"},
    {"pose"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("torchthin.")}
    return rooms & set(LEVEL)


def test_every_room_has_a_level() -> None:
    rooms = {room_of(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms <= set(LEVEL), f"add to LAYERS: {rooms - set(LEVEL)}"


def test_imports_go_down() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path in PACKAGE.rglob("*.py")
        if room_of(path) != "__init__"
        for target in imported_rooms(path)
        if target != room_of(path) and LEVEL[target] >= LEVEL[room_of(path)]
    ]
    assert wrong == []
