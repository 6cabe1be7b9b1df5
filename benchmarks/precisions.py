"""Whether models of the zoo lose as much in bfloat16 and float16 as in float32, under the same verdict.

    python benchmarks/precisions.py                       # all of MODELS, one after the other
    python benchmarks/precisions.py --models bert t5      # some
    python benchmarks/precisions.py --markdown benchmarks/precisions.md

The CPU computes; float inputs are given in the dtype of the model.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).parent))
from zoo import vision_ops

vision_ops.define()
from zoo import Case, cases  # noqa: E402
from zoo.case import Inputs  # noqa: E402

import torchthin  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHARE = 0.5
MODELS = (
    "albert", "audio-spectrogram", "bart", "beit", "bert", "bloom", "clip", "convnext", "deberta-v2", "deit", "distilbert",
    "electra", "falcon", "fnet", "gemma", "gpt2", "gpt-neo", "gpt-neox", "llama", "mamba", "marian", "mistral", "mixtral",
    "mpnet", "opt", "phi3", "qwen2", "qwen3", "roberta", "segformer", "siglip", "swin", "t5", "vit", "wav2vec2",
    "whisper", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5",
)  # fmt: skip
"""The smallest of the zoo, of as many kinds as there are."""


@dataclass(frozen=True)
class Row:
    """What came of one model in one dtype."""

    left: int
    """Parameters."""
    kept: dict[str, tuple[int, ...]]
    """Shapes after."""
    verdict: str
    computed_in: str
    relative: float
    seconds: float
    """CPU seconds of `prune`."""


def moved(inputs: Inputs, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
    """Return inputs on a device, those of fractions in a dtype."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)

    return tree_map(one, inputs)


def measured(case: Case, dtype: torch.dtype) -> Row:
    """Prune a model in one dtype."""
    model = case.build().to(dtype)
    inputs = moved(case.small(), dtype)
    start = time.process_time()
    result = torchthin.prune(model, inputs, SHARE, include=["*"])
    seconds = time.process_time() - start
    kept = {name: tuple(tensor.shape) for name, tensor in result.model.named_parameters()}
    left = sum(p.numel() for p in result.model.parameters())
    proof = result.proof
    if proof is None:
        return Row(left, kept, "nothing removed", "-", 0.0, seconds)
    dtypes = {p.dtype for p in result.model.parameters()}
    verdict = (
        str(proof).partition(":")[0]
        if dtypes <= {p.dtype for p in model.parameters()}
        else f"became {dtypes}"
    )
    return Row(left, kept, verdict, proof.dtype, proof.relative, seconds)


def row_or_error(case: Case, dtype: torch.dtype) -> Row | str:
    """Return what comes of a model in one dtype, or the error."""
    try:
        return measured(case, dtype)
    except Exception as error:  # whatever a model raises in this dtype
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def table_line(name: str, found: list[Row | str]) -> str:
    """Return a line of the table; the last column says what differs from the first dtype."""
    first = found[0]
    cells, different = [name], set()
    for dtype, row in zip(DTYPES, found, strict=True):
        if isinstance(row, str):
            cells.append(row)
            different.add("fails")
            continue
        cells.append(
            f"{row.left:,} {row.verdict} ({row.computed_in}, {row.relative:.0e}, {row.seconds:.1f} s)"
        )
        if isinstance(first, Row) and row.kept != first.kept:
            different.add(f"{str(dtype).removeprefix('torch.')}: other sizes")
        if isinstance(first, Row) and row.verdict != first.verdict:
            different.add(f"{str(dtype).removeprefix('torch.')}: another verdict")
    return f"| {' | '.join([*cells, ', '.join(sorted(different)) or 'nothing'])} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=MODELS, help="names of the zoo")
    parser.add_argument("--markdown", help="write the table to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = cases()
    lines = [
        f"| model | {' | '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)} | what differs |",
        "|---|" + "---|" * (len(DTYPES) + 1),
    ]
    print("\n".join(lines), flush=True)
    for name in options.models:
        lines.append(table_line(name, [row_or_error(found[name], dtype) for dtype in DTYPES]))
        print(lines[-1], flush=True)
    same = sum(line.endswith("| nothing |") for line in lines)
    head = (
        f"`python benchmarks/precisions.py`, torch {torch.__version__} on CPU, one thread, {datetime.date.today()}: "
        f"{same} of {len(lines) - 2} models keep the same sizes under the same verdict in all dtypes.\n\n"
        "Parameters left, verdict (what the proof computed in, largest difference, CPU seconds of `prune`).\n\n"
    )
    if options.markdown:
        Path(options.markdown).write_text(head + "\n".join(lines) + "\n")
    return same < len(lines) - 2


if __name__ == "__main__":
    sys.exit(main())
