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
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from table import key, markdown, plot, read
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
        rows = read(Path(options.table))
        if options.markdown:
            Path(options.markdown).write_text(markdown(rows))
        if options.plot:
            plot(rows, Path(options.plot))
        return
    for task in TASKS.values():
        task.trained, task.float32 = options.epochs, options.float32
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {key(row) for row in read(path)} if path.exists() else set()
    for seed in options.seeds:
        for network in options.network:
            for share in options.budgets:
                for way in WAYS:
                    row = {
                        "network": network, "seed": seed, "budget": share,
                        "tool": way.tool, "criterion": way.criterion, "data": way.data,
                    }  # fmt: skip
                    if key(row) in done or not _chosen(way, network, options):
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
    named = not options.criteria or any(fnmatchcase(way.criterion, pattern) for pattern in options.criteria)
    of_tool = not options.ways or way.tool in options.ways
    return named and of_tool and (not options.data or way.data in options.data)


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
    parser.add_argument("--epochs", type=float, default=12.0, help="of the dense training on Fashion-MNIST")
    parser.add_argument("--float32", action="store_true", help="train it without bfloat16 products")
    parser.add_argument("--ways", nargs="+", help="only these tools")
    parser.add_argument("--criteria", nargs="+", help="only criteria of these patterns, such as 'l1*'")
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


if __name__ == "__main__":
    main()
