"""Accuracy after pruning, by tool, criterion, data and budget of MACs, on the test pictures.

    python benchmarks/accuracy/run.py --json runs/accuracy/rows.jsonl      # resumes: rows that are there are kept
    python benchmarks/accuracy/run.py --table runs/accuracy/rows.jsonl --markdown benchmarks/accuracy/results.md \\
        --plot docs/accuracy.png

Every row: one way to prune, one trained network, one budget. Scored as it comes out, and again after the same short
training with labels for all.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tasks import TASKS
from tools import Job, Way, macs
from torch import nn
from ways import WAYS

BUDGETS = (0.7, 0.5, 0.25)
"""Shares of the MACs that may stay: 30, 50 and 75 % removed."""


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.table:
        rows = [json.loads(line) for line in Path(options.table).read_text().splitlines()]
        if options.markdown:
            Path(options.markdown).write_text(markdown(rows))
        if options.plot:
            plot(rows, Path(options.plot))
        return
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(json.loads(line)) for line in path.read_text().splitlines()} if path.exists() else set()
    for seed in options.seeds:
        for network in options.network:
            for share in options.budgets:
                for way in WAYS:
                    row = {
                        "network": network, "seed": seed, "budget": share,
                        "tool": way.tool, "criterion": way.criterion, "data": way.data,
                    }  # fmt: skip
                    if _key(row) in done or not _chosen(way, network, options):
                        continue
                    row |= _measured(network, seed, share, way, options.tune)
                    with path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)


def _measured(network: str, seed: int, share: float, way: Way, tune: bool) -> dict[str, Any]:
    """Prune one trained network in one way and score what comes out."""
    task = TASKS[network]
    full, score = _dense(network, seed)
    whole = macs(full, task.example)
    row = {"dense": score, "load": os.getloadavg()[0], "torch": torch.__version__}
    torch.manual_seed(seed)
    start = time.process_time()
    try:
        small = way.prune(Job(task, full, int(share * whole), *task.calibration(seed)))
    except Exception as error:  # what a tool raises on this network is its row
        return row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    row |= {
        "seconds": time.process_time() - start,
        "macs": macs(small, task.example) / whole,
        "parameters": sum(p.numel() for p in small.parameters()),
        "accuracy": task.score(small),
    }
    if tune and task.labelled:
        small.requires_grad_(True)
        task.tune_(small, seed)
        row["tuned"] = task.score(small)
    return row


def _chosen(way: Way, network: str, options: argparse.Namespace) -> bool:
    if way.data == "labels" and not TASKS[network].labelled:
        return False
    return (not options.ways or way.tool in options.ways) and (not options.data or way.data in options.data)


@cache
def _dense(network: str, seed: int) -> tuple[nn.Module, float]:
    """Return the trained network and its score."""
    model = TASKS[network].dense(seed)
    return model, TASKS[network].score(model)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--ways", nargs="+", help="only these tools")
    parser.add_argument(
        "--data", nargs="+", choices=("none", "inputs", "labels"), help="only ways with these"
    )
    parser.add_argument("--no-tune", dest="tune", action="store_false", help="leave the short training out")
    parser.add_argument("--json", default="runs/accuracy/rows.jsonl")
    parser.add_argument(
        "--table", help="rows of earlier runs to make the table and the plot of; runs nothing"
    )
    parser.add_argument("--markdown")
    parser.add_argument("--plot")
    return parser.parse_args()


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "seed", "budget", "tool", "criterion", "data"))


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the rows of all seeds together, by network, budget, data, tool and criterion."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("network", "budget", "data", "tool", "criterion"))
        found.setdefault(key, []).append(row)
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return one table per network and budget, the best of every column marked."""
    lines = []
    groups = _groups([row for row in rows if "failed" not in row])
    for network, budget in dict.fromkeys(key[:2] for key in groups):
        chosen = {key[2:]: found for key, found in groups.items() if key[:2] == (network, budget)}
        full = mean({row["seed"]: row["dense"] for found in chosen.values() for row in found}.values())
        seeds = len({row["seed"] for found in chosen.values() for row in found})
        lines += [
            f"### {network}, at most {budget:.0%} of the MACs (dense: {full:.2%}, mean of {seeds} seeds)", "",
            "| tool | criterion | data | MACs left | accuracy | of dense | range | after training | of dense | CPU s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        best = {
            (data, column): max(mean(r.get(column, 0) for r in f) for k, f in chosen.items() if k[0] == data)
            for data in dict.fromkeys(key[0] for key in chosen)
            for column in ("accuracy", "tuned")
        }
        for (data, tool, criterion), found in sorted(chosen.items(), key=_order):
            cells = []
            for column in ("accuracy", "tuned"):
                values = [row[column] for row in found if column in row]
                if not values:
                    cells += [""] * (3 if column == "accuracy" else 2)
                    continue
                mark = "**" if mean(values) == best[data, column] else ""
                cells += [f"{mark}{mean(values):.2%}{mark}", f"{mean(values) / full:.1%}"]
                if column == "accuracy":
                    cells.append(f"{min(values):.1%} to {max(values):.1%}")
            left = mean(row["macs"] for row in found)
            seconds = mean(row["seconds"] for row in found)
            lines.append(
                f"| {tool} | {criterion} | {data} | {left:.1%} | {' | '.join(cells)} | {seconds:.1f} |"
            )
        lines += ["", *_failures(rows, network, budget)]
    return "\n".join(lines)


def _failures(rows: list[dict[str, Any]], network: str, budget: float) -> list[str]:
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


def _order(item: tuple[tuple[str, str, str], list[dict[str, Any]]]) -> tuple[int, float]:
    (data, _, _), rows = item
    return ("none", "inputs", "labels").index(data), -mean(row["accuracy"] for row in rows)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of the dense accuracy over the MACs left: the best of each tool, per network and kind of data."""
    import matplotlib.pyplot as plt

    groups = _groups([row for row in rows if "failed" not in row])
    networks = list(dict.fromkeys(key[0] for key in groups))
    trained = {key[1] for key, found in groups.items() if all("tuned" in row for row in found)}
    columns = [
        ("none", "accuracy", "without data"),
        ("inputs", "accuracy", "256 inputs, no labels"),
        *([("any", "tuned", "after a short training with labels")] if len(trained) > 1 else []),
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
            for tool in dict.fromkeys(key[3] for key in groups):
                points = {}
                for key, found in groups.items():
                    if key[0] != network or key[3] != tool or (data != "any" and key[2] != data):
                        continue
                    if all(column in row for row in found):
                        share = mean(row[column] / row["dense"] for row in found)
                        points[key[1]] = max(points.get(key[1], 0.0), share)
                if points:
                    budgets = sorted(points)
                    axis.plot(
                        [100 * b for b in budgets], [100 * points[b] for b in budgets], marker="o", label=tool
                    )
            axis.set_title(f"{network}, {title}", fontsize=9)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("% of the dense accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("% of the MACs left at most")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
