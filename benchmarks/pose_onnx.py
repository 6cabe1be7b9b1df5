"""The pose student from weights to pictures: prune, thin, recover, export to ONNX, and draw what the ONNX files find.

    python benchmarks/pose_onnx.py --out docs/pose_onnx.png

Needs the extras export and plot, and Pillow, which plot brings. Everything it reads is shipped with the package.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import torchthin
from pose_demo.calibration import calibration_inputs
from pose_demo.score import SYNTHETIC, PoseScore, decode, normalise, score_keypoints
from pose_demo.skeleton import LIMBS
from pose_demo.student import load_student
from pose_demo.validation import PoseData, load_data
from torchthin.graph.inputs import as_inputs
from torchthin.io.export import export
from torchthin.io.export.formats import run_onnx
from torchthin.pruning.recover import recover

HEADS = ("heat_out", "paf_out")
DPI = 120
PEAK = 0.1
"""A keypoint is drawn where its heatmap is at least so high."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target-sparsity", type=float, default=0.5)
    parser.add_argument("--unlabelled", type=int, default=256, help="pictures without labels to recover from")
    parser.add_argument("--epochs", type=int, default=0, help="of distillation, after the closed form")
    parser.add_argument("--people", type=int, nargs="+", default=[0, 40, 80, 120, 160, 200])
    parser.add_argument("--out", type=Path, default=Path("pose_onnx.png"))
    given = parser.parse_args()

    dense = load_student()
    inputs = calibration_inputs(given.unlabelled)
    pruned = torchthin.prune(dense, inputs[:2], given.target_sparsity, exclude=HEADS)
    recovery = torchthin.Recovery(epochs=given.epochs, max_samples=given.unlabelled)
    recovered = recover(dense, pruned, inputs[:2], inputs, recovery=recovery)
    percent = f"{100 * given.target_sparsity:g} %"
    models = {
        "dense": dense,
        f"{percent} of the channels gone": pruned.model,
        "recovered without labels": recovered.model,
    }
    data = load_data()
    found = {name: onnx_keypoints(model, inputs[:1], data) for name, model in models.items()}
    rows = {}
    for name, (keypoints, size) in found.items():
        score = score_keypoints(keypoints, data, name=SYNTHETIC)
        print(
            f"{name}: {size:,} bytes of ONNX, PCK@0.1 {score.pck_01:.4f}, PCK@0.2 {score.pck_02:.4f}, OKS {score.oks:.4f}"
        )
        rows[_label(name, size, score)] = keypoints
    draw(rows, data, given.people, given.out)
    print(f"Saved {given.out}.")


def onnx_keypoints(model: nn.Module, example: Tensor, data: PoseData) -> tuple[np.ndarray, int]:
    """Export, run the file on all pictures, and return keypoints (N, 18, 3) and the file's bytes."""
    with TemporaryDirectory() as folder:
        made = export(model, Path(folder) / "student.onnx", example, dynamic_batch=True)
        print(made)
        run = run_onnx(made.path)
        images, boxes = torch.from_numpy(data.images), torch.from_numpy(data.boxes).float()
        parts: list[Tensor] = [
            decode(run(as_inputs(normalise(images[start : start + 50])))[0], boxes[start : start + 50])
            for start in range(0, len(images), 50)
        ]
        return torch.cat(parts).numpy(), made.file_bytes


def _label(name: str, size: int, score: PoseScore) -> str:
    return f"{name}\n{size / 1000:.0f} kB of ONNX\nPCK@0.2 {score.pck_02:.3f}"


def draw(rows: dict[str, np.ndarray], data: PoseData, people: list[int], path: Path) -> None:
    """Write a grid: a row per model, a column per person, skeletons on the pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(1.15 * len(people) + 1.5, 1.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(people), squeeze=False)
    for row, (label, keypoints) in enumerate(rows.items()):
        for column, person in enumerate(people):
            _skeleton(axes[row, column], data.images[person], keypoints[person])
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    with Image.open(buffer) as picture:  # 256 colours are enough, and a third of the bytes
        picture.convert("RGB").quantize(256).save(path, optimize=True)


def _skeleton(ax: Any, image: np.ndarray, points: np.ndarray) -> None:
    ax.imshow(image.transpose(1, 2, 0))
    for limb, (start, end) in enumerate(LIMBS):
        if min(points[start, 2], points[end, 2]) >= PEAK:
            pair = points[[start, end]]
            ax.plot(pair[:, 0] - 0.5, pair[:, 1] - 0.5, linewidth=1.6, color=_colour(limb))
    seen = points[points[:, 2] >= PEAK]
    ax.plot(seen[:, 0] - 0.5, seen[:, 1] - 0.5, ".", markersize=3, color="white")
    ax.set(xlim=(-0.5, image.shape[2] - 0.5), ylim=(image.shape[1] - 0.5, -0.5), xticks=[], yticks=[])


def _colour(limb: int) -> tuple[float, float, float]:
    import colorsys

    return colorsys.hsv_to_rgb(limb / len(LIMBS), 0.9, 1.0)


if __name__ == "__main__":
    main()
