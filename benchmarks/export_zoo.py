"""Models of the zoo, thinned by half, as .pt2 and ONNX: how far each file is from its thinned model.

    python benchmarks/export_zoo.py [NAME ...] [--markdown FILE]

Inputs are as small as a model allows; weights are random. Each row is printed when it is there. Times are not the point.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from zoo import Case, cases

import torchthin
from torchthin.errors import TorchthinError
from torchthin.io.export import Exported, export

NAMES = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
    "googlenet", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
    "vit_b_32", "swin_t", "fcn_resnet50", "lraspp_mobilenet_v3_large", "r3d_18", "bert", "distilbert",
    "gpt2", "t5", "vit",
)  # fmt: skip
HEADINGS = ("model", "parameters left", "file", "bytes", "opset", "BatchNorms folded", "largest error")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--markdown", type=Path, help="file for the table")
    given = parser.parse_args()
    known = cases()
    rows = [HEADINGS, tuple("---" for _ in HEADINGS)]
    for name in given.names:
        for row in _rows(known[name]):
            rows.append(row)
            print(" | ".join(row), flush=True)
            if given.markdown is not None:
                given.markdown.write_text("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    return 0


def _rows(case: Case) -> list[tuple[str, ...]]:
    model, inputs = case.build(), case.small()
    before = sum(parameter.numel() for parameter in model.parameters())
    linear_too = case.source == "transformers" or case.name == "swin_t"
    convolutions = [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.modules.conv._ConvNd)
    ]
    weights = ["*"] if linear_too else convolutions
    result = torchthin.prune(model, inputs, 0.5, include=weights)
    assert result.proof is not None and result.proof.holds
    left = sum(parameter.numel() for parameter in result.model.parameters()) / before
    return [(case.name, f"{left:.3f}", *_cells(result.model, inputs, suffix)) for suffix in (".pt2", ".onnx")]


def _cells(model: torch.nn.Module, inputs: object, suffix: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            made: Exported = export(model, Path(folder) / f"model{suffix}", inputs, fold_batchnorm=True)
        except TorchthinError as error:
            return (suffix, "", "", "", f"{type(error).__name__}: {str(error)[:160]}")
    opset = "" if made.opset is None else str(made.opset)
    return (suffix, f"{made.file_bytes:,}", opset, str(len(made.folded)), f"{made.proof.relative:.1e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
