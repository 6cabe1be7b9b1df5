"""What the site is made of beside its pages: a notebook of every tutorial, and no link to what it does not have."""

import re
from pathlib import Path

import pytest

from docs.hooks import notebooks, repository_links

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_runs_what_its_page_shows(page: Path) -> None:
    """The blocks are those that `test_tutorials` runs."""
    text = page.read_text(encoding="utf-8")
    shown = [
        code.rstrip("\n") or f"!torchthin {command}"
        for code, command in re.findall(
            r"```python\n(.*?)```|^    torchthin (.*?)$", text, re.DOTALL | re.MULTILINE
        )
    ]
    cells = notebooks.notebook(text)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    run = [each for cell in code for each in (cell.splitlines() if cell.startswith("!") else [cell])]
    assert [each for each in run if not re.match(r"!(?!torchthin )| ", each)] == shown
    printed = "".join(line for cell in cells for output in cell.get("outputs", ()) for line in output["text"])
    assert printed == "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))


def test_a_notebook_keeps_every_line_of_its_page() -> None:
    for page in TUTORIALS:
        text = page.read_text(encoding="utf-8")
        cells = notebooks.notebook(text)["cells"]
        parts = [line for cell in cells for line in cell["source"]] + [
            line for cell in cells for output in cell.get("outputs", ()) for line in output["text"]
        ]
        lines = {line.strip().removeprefix("!") for line in parts}
        plain = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)
        wanted = {line.strip() for line in plain.splitlines()} - {"```python", "```text", "```", ""}
        assert wanted <= lines, page.name


def test_commands_become_cells_of_the_shell() -> None:
    text = "# Title\n\nSay:\n\n    one --a \\\n        --b\n    two\n\nMore [here](../there.md).\n"
    sources = ["".join(cell["source"]) for cell in notebooks.notebook(text)["cells"]]
    assert sources == ["# Title\n\nSay:", "!one --a \\\n    --b\n!two", "More here."]


def test_a_page_links_its_notebook() -> None:
    assert notebooks.linked("# Title\n\nText.\n", "page.ipynb").startswith(
        "# Title\n\n[This page as a notebook](page.ipynb)\n"
    )
    assert [notebooks.is_tutorial(uri) for uri in ("tutorials/yolo.md", "prune.md")] == [True, False]


def test_files_that_the_site_does_not_have_are_named_instead() -> None:
    text = "[figures](../benchmarks/README.md#time), [prune](prune.md), [a page](../prune.md)"
    assert repository_links.without_dead_links(text, "recover.md").startswith(
        "figures (`benchmarks/README.md` in the repository), [prune](prune.md)"
    )
    assert repository_links.without_dead_links(text, "tutorials/yolo.md").endswith("[a page](../prune.md)")


def test_pages_link_to_files_that_exist() -> None:
    """Also those outside of docs/, which the build of the site does not look at."""
    dead = [
        (page.name, target)
        for page in sorted(DOCS.rglob("*.md"))
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []
