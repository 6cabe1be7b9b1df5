"""English sentences that every machine with Python has: those in the docstrings of the standard library."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LETTERS = 0.75
"""Share of a sentence that is letters and spaces, at least: doctests, tables and signatures are no sentences."""


def sentences(calibration: int, test: int, seed: int) -> tuple[list[str], list[str]]:
    """Return so many sentences for calibration and for the test; no module of the library gives to both."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path for path in folder.rglob("*.py") if not _SKIPPED & set(path.relative_to(folder).parts)
    )
    generator = random.Random(seed)
    generator.shuffle(files)
    half = len(files) // 2
    used: set[str] = set()
    return _drawn(files[:half], calibration, generator, used), _drawn(files[half:], test, generator, used)


_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


def _drawn(files: list[Path], count: int, generator: random.Random, used: set[str]) -> list[str]:
    found = sorted({sentence for path in files for sentence in _of_file(path)} - used)
    if len(found) < count:
        raise SystemExit(f"The standard library here has {len(found)} sentences, {count} are needed.")
    drawn = generator.sample(found, count)
    used.update(found)
    return drawn


def _of_file(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                letters = sum(c.isalpha() or c == " " for c in sentence)
                if (
                    30 <= len(sentence) <= 200
                    and letters >= LETTERS * len(sentence)
                    and sentence[-1] in ".!?"
                ):
                    yield sentence
