"""README and docs show what the programs print. After a change of the output: ``python tests/readme_blocks.py``."""

import re
from pathlib import Path

import pytest
from readme_blocks import (
    DOCUMENTS,
    POSE,
    README,
    python_blocks,
    registries_restored,
    run_python,
    run_script,
    scores_once,
    script_blocks,
)

TEXT = README.read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+\.\d+(?:e[-+]\d+)?|\d+")
NOISE = 1e-6
"""Below this an error is rounding, whose digits differ between machines."""
SCORE_STEP = 2e-3
"""Scores have four digits; a keypoint more or less of about 5000 moves them by 2e-4."""


def near(shown: str, printed: str) -> bool:
    if shown == printed:
        return True
    a, b = float(shown), float(printed)
    if "e" in shown or "e" in printed:
        return max(a, b) <= NOISE or abs(a - b) <= 0.1 * a
    return bool(re.fullmatch(r"0\.\d{4}", shown)) and abs(a - b) <= SCORE_STEP


def same_line(shown: str, printed: str) -> bool:
    words = [NUMBER.sub("#", line) for line in (shown, printed)]
    numbers = [NUMBER.findall(line) for line in (shown, printed)]
    return words[0] == words[1] and all(map(near, *numbers))


def different_lines(shown: str, printed: str) -> list[tuple[str, str]]:
    pairs = [shown.splitlines(), printed.splitlines()]
    assert len(pairs[0]) == len(pairs[1]), printed
    return [(a, b) for a, b in zip(*pairs, strict=True) if not same_line(a, b)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_python_examples_print_what_is_shown(path: Path) -> None:
    names: dict[str, object] = {"__name__": path.stem}
    blocks = python_blocks(path.read_text(encoding="utf-8"))
    assert blocks
    with registries_restored():
        for code, shown in blocks:
            assert different_lines(shown, run_python(code, names)) == []


def test_the_script_prints_what_its_page_shows() -> None:
    blocks = script_blocks(POSE.read_text(encoding="utf-8"))
    assert [flags.strip() for flags, _ in blocks] == [
        "--target-sparsity 0.5 --thin",
    ]
    with scores_once():
        for flags, shown in blocks:
            assert shown
            assert different_lines(shown, run_script(flags)) == []


@pytest.mark.parametrize(
    "shown, printed, same",
    [
        ("off by 8.5e-16 of it", "off by 1.1e-16 of it", True),
        ("off by 1.9e-01 of it", "off by 1.1e-16 of it", False),
        ("OKS 0.5801 0.0231", "OKS 0.5803 0.0230", True),
        ("OKS 0.5801 0.0231", "OKS 0.5901 0.0231", False),
        ("12 of 24 (50.00 %)", "12 of 24 (50.01 %)", False),
        ("Saved a.pth", "Saved b.pth", False),
    ],
)
def test_the_comparison_sees_what_matters(shown: str, printed: str, same: bool) -> None:
    assert same_line(shown, printed) is same


def test_a_newcomer_reads_what_it_is_how_to_install_it_and_ten_lines_at_work() -> None:
    places = [TEXT.index(text) for text in ("prunes any PyTorch model", "pip install .", "<!-- python -->")]
    assert places == sorted(places) and TEXT[: places[-1]].count("\n") < 25
    commands = TEXT[TEXT.index("## To work on it") :]
    assert commands.index("make demo") < commands.index("make test") < 200
    assert len(TEXT.splitlines()) <= 200


def test_every_page_of_a_call_shows_it_at_work() -> None:
    calls = {"prune", "inspect", "thin", "sensitivity", "verify", "load", "chip", "extending", "how-it-works"}
    assert calls <= {path.stem for path in DOCUMENTS}
