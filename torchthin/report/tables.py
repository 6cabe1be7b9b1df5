"""A table in plain ASCII that prints on every terminal and pastes into Markdown. Imports nothing, so every room may use it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)
) -> list[str]:
    """Return the lines of a table; the columns numbered in `left` are aligned left, the others right.

    >>> print(*table(["layer", "MACs"], [["conv1", "1,024"], ["fc", "8"]]), sep=chr(10))
    | layer |  MACs |
    |-------|-------|
    | conv1 | 1,024 |
    | fc    |     8 |
    """
    cells = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = (
        " | ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    rule = "|".join("-" * (width + 2) for width in widths)
    return [f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in body)]
