"""The pose student cut for a chip and cut evenly: cycles, kernel words, and the score in whole numbers after one recovery.

python benchmarks/chip_accuracy.py [CUT ...]     a row for each cut: uniform:0.25, or cycles:0.75x (chosen for the
                                                 MAX78000), or cycles:0.75x+0.7x, then bits for 0.7x of the words

Both kinds are ranked by what a refit cannot correct and refitted on the same 256 pictures without labels; nothing is trained.
The 300 synthetic pictures of the score decide nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pose_demo.calibration import calibration_inputs
from pose_demo.score import score_validation
from pose_demo.student import load_student
from torchthin import Chip, Ratio, prune, recover
from torchthin.max7800x import chip_cost, choose_weight_bits, integer_model

CUTS = (
    "uniform:0.1",
    "cycles:0.85x",
    "uniform:0.25",
    "cycles:0.75x",
    "cycles:0.6x",
    "uniform:0.5",
    "cycles:0.5x",
)
PICTURES = 256
HEADS = ["heat_out", "paf_out"]


def row(cut: str, data: torch.Tensor) -> str:
    """Return the row of one cut; an empty one leaves the student as it is."""
    start = time.process_time()
    model, images = load_student(), data[:1]
    asked, _, words = cut.partition("+")
    kind, _, amount = asked.partition(":")
    if cut:
        target = Chip("MAX78000", cycles=amount) if kind == "cycles" else Ratio(float(amount), round_to=4)
        result = prune(model, images, target, exclude=HEADS, criterion="reconstruction", data=data)
        model = recover(model, result, images, data).model
    bits = choose_weight_bits(model, images, data, kernel_words=words).bits if words else 8
    cost = chip_cost(model, images, weight_bits=bits).cost
    whole = integer_model(model, images, weight_bits=bits)
    scores = (score_validation(one).pck_02 for one in (model, whole))
    cells = (
        cut or "none",
        f"{cost.cycles:,}",
        f"{cost.kernel_words:,}",
        f"{cost.deepest_words:,}",
        f"{cost.weight_bytes:,}",
        *(f"{score:.4f}" for score in scores),
        f"{time.process_time() - start:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row as it is done."""
    data = calibration_inputs(PICTURES)
    print(
        "| cut | cycles | kernel words | deepest | weight bytes | PCK@0.2, float | PCK@0.2, integers | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for cut in sys.argv[1:] or ("", *CUTS):
        print(row(cut, data), flush=True)


if __name__ == "__main__":
    main()
