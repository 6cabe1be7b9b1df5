"""docs/map.md shows the package as it is, and what the documents name is there. After a change: ``python tests/map_page.py``."""

import importlib
import re
from pathlib import Path

import pytest
from map_page import PACKAGE, PAGE, first_sentence, renewed

ROOT = PACKAGE.parent
DOCUMENTS = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")})
FOLDERS = "torchthin|pose_demo|tests|benchmarks|examples|scripts|docs"


def test_the_map_shows_every_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run python tests/map_page.py"


def test_every_module_says_what_it_holds() -> None:
    assert not [str(path) for path in PACKAGE.rglob("*.py") if not first_sentence(path)]


def test_what_the_map_tells_to_change_is_there() -> None:
    prose = re.sub(r"<!-- files -->.*", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    paths = re.findall(r"`([\w/]+/(?:\w+\.py)?)`", prose)
    assert len(paths) > 10
    assert not [path for path in paths if not ((PACKAGE / path).exists() or (ROOT / path).exists())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w)", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_names_that_a_document_uses_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    names = set(re.findall(r"(?<![\w./-])((?:torchthin|pose_demo)(?:\.\w+)+)", text))
    names -= {"torchthin.schema.json"}  # a file
    assert not sorted(name for name in names if not _resolves(name))


def _resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, *attributes = name.split(".")
    value = importlib.import_module(module)
    for attribute in attributes:
        module = f"{module}.{attribute}"
        try:
            value = (
                getattr(value, attribute) if hasattr(value, attribute) else importlib.import_module(module)
            )
        except ModuleNotFoundError:
            return False
    return True
