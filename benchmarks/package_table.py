"""The table of `coverage.py` over packages: what came of every model, counted by package, and each one that is not ok."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

MUCH = 0.45
"""A larger share of parameters left is worth a look, where half of every group was asked for."""

Row = Mapping[str, Any]


def line_of(row: Row) -> str:
    """Return one row in a line."""
    left = f"left {row['parameters_left'] / row['parameters']:.3f}" if "parameters_left" in row else ""
    parts = [
        row["model"],
        "ok" if row["ok"] else f"{row['stage']}: {row.get('message', '')}",
        row.get("verdict", ""),
        left,
        f"apart {row['apart on example']:.0e} {row['apart'] or 0:.0e}"
        if row.get("apart on example") is not None
        else "",
        f"{row['prune_s']:.1f} s" if "prune_s" in row else "",
    ]
    return "  ".join(part for part in parts if part)


def table(rows: Sequence[Row]) -> str:
    """Return the counts by package, and the models that failed or keep much."""
    rows = [{**row, "source": row["source"] + ", exact=True" * bool(row.get("exact_asked"))} for row in rows]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    heads = "package | models | architectures | ok | exact | approximate | wrong | time | failed | not built | left, median"
    lines = [heads, " | ".join("---" for _ in heads.split(" | "))]
    lines += [_counts(source, [row for row in rows if row["source"] == source]) for source in sources]
    if len(sources) > 1:
        lines.append(_counts("all", rows))
    made = " ".join(sorted({f"{row['date']} ({row['commit']})" for row in rows}))
    text = f"Rows of {made}.\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"
    failed = [row for row in rows if not row["ok"] and not _unbuilt(row)]
    text += _listed("Not ok", failed, lambda row: f"{row['stage']}: {row.get('message', '')}")
    much = [row for row in rows if row["ok"] and _left(row) > MUCH]
    text += _listed(f"More than {MUCH} of the parameters left", much, lambda row: f"{_left(row):.2f}")
    unbuilt = [row for row in rows if _unbuilt(row)]
    text += _listed(
        "Not built, or not running as it is", unbuilt, lambda row: row.get("message", row["stage"])
    )
    return text


def _unbuilt(row: Row) -> bool:
    return not row["ok"] and row["stage"] in ("build", "forward")


def _left(row: Row) -> float:
    return float(row["parameters_left"] / row["parameters"])


def _counts(name: str, rows: Sequence[Row]) -> str:
    tried = [row for row in rows if not _unbuilt(row)]
    verdicts = Counter(row["verdict"] for row in tried if row["ok"])
    late = sum(row["stage"] == "time" for row in tried)
    wrong = sum(bool(row.get("wrong")) for row in tried)
    held = [row for row in tried if row["ok"]]
    cells = [
        name, len(tried), len({row["family"] for row in tried}), len(held), verdicts["exact"], verdicts["approximate"],
        wrong, late, len(tried) - len(held) - late - wrong, len(rows) - len(tried),
        f"{median(map(_left, held)):.3f}" if held else "",
    ]  # fmt: skip
    return " | ".join(map(str, cells))


def _listed(title: str, rows: Sequence[Row], said: Any) -> str:
    if not rows:
        return ""
    lines = [f"| {row['source']} | {row['model']} | {_plain(said(row))} |" for row in rows]
    return f"\n## {title}\n\n| package | model | |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:220]
