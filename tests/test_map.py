"""docs/map.md shows the package as it is. After a change: ``python tests/map_page.py``."""

from map_page import PACKAGE, PAGE, first_sentence, renewed


def test_the_map_shows_every_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run python tests/map_page.py"


def test_every_module_says_what_it_holds() -> None:
    assert not [str(path) for path in PACKAGE.rglob("*.py") if not first_sentence(path)]
