"""The table and the plot of rows that `run.py` measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

Row = dict[str, Any]
KEY = ("network", "seed", "budget", "tool", "criterion", "data")
"""What a row is of."""


def key(row: Row) -> tuple[Any, ...]:
    """Return what a row is of."""
    return tuple(row[name] for name in KEY)


def read(path: Path) -> list[Row]:
    """Return the rows of a file, one for each key; of several with one key later ones complete earlier ones."""
    found: dict[tuple[Any, ...], Row] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found[key(row)] = found.get(key(row), {}) | row
    return list(found.values())


def _groups(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of all seeds together, by network, budget, data, tool and criterion."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("network", "budget", "data", "tool", "criterion"))
        found.setdefault(key, []).append(row)
    return found


def markdown(rows: list[Row]) -> str:
    """Return one table per network and budget, the best of every column marked; of the score among those with all seeds."""
    lines = []
    groups = _groups([row for row in rows if "failed" not in row])
    for network, budget in dict.fromkeys(key[:2] for key in groups):
        chosen = {key[2:]: found for key, found in groups.items() if key[:2] == (network, budget)}
        dense = {row["seed"]: row["dense"] for found in chosen.values() for row in found}
        title = f"{network}, at most {budget:.0%} of the MACs (dense: {mean(dense.values()):.2%}, seeds: {len(dense)})"
        trained = any("tuned" in row for found in chosen.values() for row in found)
        lines += [
            f"### {title}", "",
            "| tool | criterion | data | MACs left | score | of dense | range |"
            f"{' after training | of dense |' if trained else ''} CPU s |",
            f"|---|---|---|---|---|---|---|{'---|---|' if trained else ''}---|",
        ]  # fmt: skip
        best = {
            (data, column): max(
                (
                    _mean(found, column)
                    for key, found in chosen.items()
                    if key[0] == data and (column == "tuned" or len(found) == len(dense))
                ),
                default=0.0,
            )
            for data in dict.fromkeys(key[0] for key in chosen)
            for column in ("accuracy", "tuned")
        }
        for (data, tool, criterion), found in sorted(chosen.items(), key=_order):
            cells = _cells(found, "accuracy", best[data, "accuracy"])
            cells.append(_range(found, len(dense)))
            cells += _cells(found, "tuned", best[data, "tuned"]) if trained else []
            left = mean(row["macs"] for row in found)
            seconds = mean(row["seconds"] for row in found)
            lines.append(
                f"| {tool} | {criterion} | {data} | {left:.1%} | {' | '.join(cells)} | {seconds:.1f} |"
            )
        lines += ["", *_failures(rows, network, budget)]
    return "\n".join(lines)


def _mean(found: list[Row], column: str) -> float:
    """Return the mean over the seeds that have the column, 0 where none has."""
    values = [row[column] for row in found if column in row]
    return mean(values) if values else 0.0


def _cells(found: list[Row], column: str, best: float) -> list[str]:
    """Return the mean over the seeds that have the column, marked where it is the best, and the mean share of dense."""
    having = [row for row in found if column in row]
    if not having:
        return ["", ""]
    value = _mean(having, column)
    mark = "**" if value == best else ""
    return [f"{mark}{value:.2%}{mark}", f"{mean(row[column] / row['dense'] for row in having):.1%}"]


def _range(found: list[Row], seeds: int) -> str:
    """Return the least and the largest share of dense; which seeds there are, where not all of `seeds` are."""
    if len(found) < seeds:
        return f"only seed {', '.join(str(row['seed']) for row in found)}"
    shares = [row["accuracy"] / row["dense"] for row in found]
    return f"{min(shares):.1%} to {max(shares):.1%}" if len(shares) > 1 else ""


def _failures(rows: list[Row], network: str, budget: float) -> list[str]:
    """Return a line for every message with which ways ended."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        if "failed" in row and (row["network"], row["budget"]) == (network, budget):
            name = f"{row['tool']} {row['criterion']} ({row['data']})"
            ways.setdefault(row["failed"], [])
            if name not in ways[row["failed"]]:
                ways[row["failed"]].append(name)
    return [
        line
        for message, names in ways.items()
        for line in (f"No result: {'; '.join(names)}: `{message}`", "")
    ]


def _order(item: tuple[tuple[str, str, str], list[Row]]) -> tuple[int, float]:
    (data, _, _), rows = item
    return ("none", "inputs", "labels").index(data), -mean(row["accuracy"] for row in rows)


def plot(rows: list[Row], path: Path) -> None:
    """Draw the share of the dense accuracy over the MACs left: the best of each tool, per kind of data.

    Networks with one budget only are left out, and so are scores of ways that were not run with all seeds.
    """
    import matplotlib.pyplot as plt

    groups = _groups([row for row in rows if "failed" not in row])
    budgets = {network: {key[1] for key in groups if key[0] == network} for network, *_ in groups}
    networks = [network for network, found in budgets.items() if len(found) > 1]
    seeds = {(key[0], key[1]): max(len(groups[k]) for k in groups if k[:2] == key[:2]) for key in groups}
    trained = {key[:2] for key, found in groups.items() if any("tuned" in row for row in found)}
    often = all(sum(name == network for name, _ in trained) > 1 for network in networks)
    columns = [
        ("none", "accuracy", "without data"),
        ("inputs", "accuracy", "256 inputs, no labels"),
        *([("any", "tuned", "after a short training with labels")] if often else []),
    ]
    figure, axes = plt.subplots(
        len(networks),
        len(columns),
        figsize=(3.7 * len(columns), 3.2 * len(networks)),
        squeeze=False,
        sharex=True,
    )
    for line, network in zip(axes, networks, strict=True):
        for axis, (data, column, title) in zip(line, columns, strict=True):
            for number, tool in enumerate(dict.fromkeys(key[3] for key in groups)):
                points = {}
                for key, found in groups.items():
                    if key[0] != network or key[3] != tool or (data != "any" and key[2] != data):
                        continue
                    shares = [row[column] / row["dense"] for row in found if column in row]
                    if shares and (column == "tuned" or len(shares) == seeds[key[:2]]):
                        share = mean(shares)
                        points[key[1]] = max(points.get(key[1], 0.0), share)
                if points:
                    shown = [(100 * budget, 100 * points[budget]) for budget in sorted(points)]
                    axis.plot(*zip(*shown, strict=True), marker="o", label=tool, color=f"C{number}")
            axis.set_title(f"{network}, {title}", fontsize=9)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("% of the dense accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("% of the MACs left at most")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
