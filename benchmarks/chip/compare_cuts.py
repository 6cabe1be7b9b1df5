"""The trained stand-ins cut evenly and cut for the chip: cycles, kernel words, and the score in whole numbers after one recovery.

python benchmarks/chip/compare_cuts.py [--network residual ...] [--json rows.jsonl]     rows, one line each as they are done
python benchmarks/chip/compare_cuts.py --table rows.jsonl                               the tables of benchmarks/chip.md

Every cut is ranked by what a refit cannot correct and refitted on the same 256 inputs without labels; only what is called
distilled is trained after that, also without labels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from stand_in_tasks import CALIBRATION, TASKS, Fashion
from stand_ins import STAND_INS
from torch import nn
from train_stand_ins import trained

from torchthin import Chip, Ratio, Recovery, prune, recover
from torchthin.errors import TargetMissedError
from torchthin.max7800x import chip_cost, choose_weight_bits, integer_model

CUTS = (
    "none",
    *(f"uniform {share}" for share in (0.25, 0.5)),
    *(f"chip {share}x" for share in (0.8, 0.65, 0.5, 0.35)),
    *(f"outputs {share}x" for share in (0.8, 0.65, 0.5, 0.35)),
    "outputs 0.5x, bits 0.7x",
    "outputs 0.5x, distilled 16",
)
"""uniform: that share of every group; chip: cycles, channels chosen for the chip by importance; outputs: by how the outputs
move; bits: then bits of weights for that share of the deepest processor's words; distilled: after the refit, so many epochs of
learning from the dense network, without labels."""
DISTILLED = 1024
"""Inputs of that."""
HEADS = {"detector": ["classes*", "boxes*"]}


def row(network: str, cut: str, seed: int) -> dict[str, Any]:
    """Return the facts of one cut of one network."""
    task, (_, chip) = TASKS[network], STAND_INS[network]
    model: nn.Module = trained(network, seed)
    asked, *more = cut.split(", ")
    after = dict(one.split() for one in more)
    epochs, words = int(after.get("distilled", 0)), after.get("bits")
    data = task.calibration(seed, DISTILLED if epochs else CALIBRATION)
    images, start = data[:1], time.process_time()
    if cut != "none":
        kind, amount = asked.split()
        target = (
            Ratio(float(amount), round_to=4)
            if kind == "uniform"
            else Chip(chip, cycles=amount, allocation="outputs" if kind == "outputs" else None)
        )
        result = prune(
            model,
            images,
            target,
            exclude=HEADS.get(network, []),
            criterion="reconstruction",
            data=data[:CALIBRATION],
        )
        how = Recovery(epochs=epochs, mixup=task.mixup, max_samples=len(data))
        model = recover(model, result, images, data, recovery=how).model
    bits = choose_weight_bits(model, images, data, chip, kernel_words=words).bits if words else 8
    spent = time.process_time() - start
    cost = chip_cost(model, images, chip=chip, weight_bits=bits).cost
    return {
        "network": network,
        "seed": seed,
        "cut": cut,
        "cycles": cost.cycles,
        "words": cost.kernel_words,
        "deepest": cost.deepest_words,
        "float": round(task.score(model), 4),
        "integer": round(task.score(integer_model(model, images, chip, bits)), 4),
        "cpu_s": round(spent),
    }


def saved_at(score: float, rows: Iterable[dict[str, Any]], dense: dict[str, Any]) -> float:
    """Return the share of the cycles that is saved at a score, on the line between the cuts next to it."""
    points = sorted((1 - r["cycles"] / dense["cycles"], r["integer"]) for r in (dense, *rows))
    best = 0.0
    for (less, high), (more, low) in itertools.pairwise(points):
        if low >= score:
            best = more
        elif high >= score:
            best = max(best, less + (more - less) * (high - score) / (high - low))
    return best


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the rows of every network, and how much more is saved at the score of each uniform cut."""
    lines: list[str] = []
    for network in dict.fromkeys(r["network"] for r in rows):
        mine = [r for r in rows if r["network"] == network]
        dense = next(r for r in mine if r["cut"] == "none")
        lines += [
            f"\n**{network}**\n",
            "| cut | cycles | | kernel words | deepest | score, float | integers | of dense | CPU s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for r in mine:
            saved = f"{100 * r['cycles'] / dense['cycles'] - 100:+.1f} %" if r is not dense else ""
            share = f"{100 * r['integer'] / dense['integer']:.1f} %"
            cells = (r["cut"], f"{r['cycles']:,}", saved, f"{r['words']:,}", f"{r['deepest']:,}")
            lines.append(
                f"| {' | '.join(cells)} | {r['float']:.4f} | {r['integer']:.4f} | {share} | {r['cpu_s']} |"
            )
        lines += ["", *_compared(mine, dense)]
    return "\n".join(lines)


def _compared(rows: list[dict[str, Any]], dense: dict[str, Any]) -> list[str]:
    kinds = {
        kind: [r for r in rows if r["cut"].split()[0] == kind and "," not in r["cut"]]
        for kind in ("chip", "outputs")
    }
    found = [
        "| at the integer score of | it saves | chip saves | | outputs saves | |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        if not r["cut"].startswith("uniform"):
            continue
        even = 1 - r["cycles"] / dense["cycles"]
        cells = [r["cut"], f"{100 * even:.1f} %"]
        for ours in kinds.values():
            saved = saved_at(r["integer"], ours, dense)
            beyond = "over " if ours and r["integer"] < min(each["integer"] for each in ours) else ""
            cells += (
                [f"{beyond}{100 * saved:.1f} %", f"{beyond}{saved / even:.2f} times"] if saved else ["-", "-"]
            )
        found.append(f"| {' | '.join(cells)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=STAND_INS, default=list(STAND_INS))
    parser.add_argument("--cut", nargs="+", default=CUTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fashion", type=Path, default=Fashion.folder)
    parser.add_argument("--json", type=Path, help="lines are added to it")
    parser.add_argument("--table", type=Path, help="no cuts, the tables of such a file")
    options = parser.parse_args()
    if options.table is not None:
        print(tables([json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    Fashion.folder = options.fashion
    for network in options.network:
        for cut in options.cut:
            try:
                line = json.dumps(row(network, cut, options.seed))
            except TargetMissedError as error:
                print(f"{network}, {cut}: {error}", flush=True)
                continue
            print(line, flush=True)
            if options.json is not None:
                with options.json.open("a") as file:
                    print(line, file=file)


if __name__ == "__main__":
    sys.exit(main())
