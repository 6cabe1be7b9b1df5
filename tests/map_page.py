"""The tables of docs/map.md, made from the package: its rooms and levels, and what every file's docstring says it holds.

python tests/map_page.py        writes them again; look at the difference before you commit it
"""

import ast
import re
from pathlib import Path

from test_architecture import PACKAGE, ROOMS

PAGE = PACKAGE.parent / "docs" / "map.md"
_TABLE = re.compile(r"(<!-- (?P<name>rooms|files) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def rooms() -> str:
    """Return the table of rooms, from the lowest level to the highest."""
    rows = [
        f"| {level} | `{name}{'.py' if (PACKAGE / f'{name}.py').exists() else '/'}` | {text} |\n"
        for name, (level, text) in sorted(ROOMS.items(), key=lambda item: item[1][0])
        if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    ]
    return "| level | room | what it holds, and the highest room it may import |\n|---|---|---|\n" + "".join(
        rows
    )


def files() -> str:
    """Return a table for every room with its files, folders first named by themselves."""
    parts = []
    for name in sorted((n for n in ROOMS if (PACKAGE / n).is_dir()), key=lambda n: ROOMS[n][0]):
        room = PACKAGE / name
        paths = sorted(
            room.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)
        )
        rows = [row(path, room) for path in paths if path != room / "__init__.py"]
        parts.append(f"### `{name}/`\n\n| file | what it holds |\n|---|---|\n" + "".join(rows))
    return "\n".join(parts)


def row(path: Path, room: Path) -> str:
    shown = path.relative_to(room)
    return f"| `{shown if shown.name != '__init__.py' else f'{shown.parent}/'}` | {first_sentence(path)} |\n"


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].replace("``", "`").split())
    sentence = re.split(r"(?<=[.?!])\s(?=[A-Z`])", paragraph)[0]
    return sentence.replace("|", "\\|")


def renewed(page: str) -> str:
    """Return the page with its tables made again."""
    made = {"rooms": rooms, "files": files}
    return _TABLE.sub(lambda match: match[1] + made[match["name"]]() + match[4], page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
