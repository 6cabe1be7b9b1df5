"""How long `torchthin.prune` takes on weights of ResNet-50's shapes, or on large vision models. See benchmarks/README.md.

python benchmarks/prune_speed.py
python benchmarks/prune_speed.py --models vit_l_16 sam-vision-base hiera-base
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch
from coverage_case import timed
from torch import nn
from zoo import Case, cases
from zoo.case import run, tensors
from zoo.transformers_models import LARGE, transformers_cases

from torchthin import Distiller, Ratio, Unstructured, prune
from torchthin.pruning.result import PruneResult

# (blocks, inner width) of the four stages; a block's output is four times as wide (He et al. 2016, table 1).
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
PARAMETERS = 25_557_032
METHODS = ("agp-structured", "l1-structured", "agp-unstructured")
TARGETS = {
    "Ratio": Ratio(0.5),
    "Unstructured": Unstructured(0.5),
    **{f"Distiller {method}": Distiller(method, 0.5, agp_steps=50) for method in METHODS},
}


def resnet50_weights() -> nn.Module:
    """All layers of ResNet-50 in one list: same shapes and counts, no forward."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)]

    def conv(inputs: int, outputs: int, kernel: int) -> None:
        layers.extend([nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs)])

    width = 64
    for blocks, inner in STAGES:
        for block in range(blocks):
            conv(width, inner, 1)
            conv(inner, inner, 3)
            conv(inner, 4 * inner, 1)
            if block == 0:
                conv(width, 4 * inner, 1)
            width = 4 * inner
    return nn.ModuleList([*layers, nn.Linear(width, 1000)])


def check(result: PruneResult, structured: bool) -> None:
    """A time is worth printing only if the work was done: exactly half of every layer."""
    for layer in result.report.layers:
        removed, size = (
            (layer.pruned_channels, layer.filters) if structured else (layer.zeroed_weights, layer.weights)
        )
        if removed != size // 2:
            raise SystemExit(f"{layer.name}: {removed} of {size} were removed, not half")


def large_line(case: Case) -> str:
    """Return a line of the table of large models: one call each, in CPU seconds."""
    model, inputs = case.build(), case.inputs()

    def forward() -> object:
        with torch.no_grad():
            return run(model, inputs)

    forward()
    _, pass_s = timed(forward)
    result, seconds = timed(lambda: prune(model, inputs, 0.5))
    if result.proof is None or not result.proof.holds:
        raise SystemExit(f"{case.name}: {result.proof}")
    before, after = result.report.thinned.before.parameters, result.report.thinned.after.parameters
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shape = " x ".join(map(str, tensors(inputs)[0].shape))
    return (
        f"| {case.name} | {shape} | {before:,} | {after / before:.2f} | {result.proof.verdict} | {pass_s:.1f} | "
        f"{seconds:.1f} | {seconds / pass_s:.1f} | {peak:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", help="cases of the zoo, or " + ", ".join(family.name for family in LARGE)
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed runs per row; the median is printed")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.models:
        known = {**cases(), **{case.name: case for case in transformers_cases(LARGE)}}
        print(
            "| model | input | parameters | left | verdict | forward s | prune s | forward passes | peak GiB |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for name in options.models:
            print(large_line(known[name]), flush=True)
        return
    masking(options.threads, options.repeats)


def masking(threads: int, repeats: int) -> None:
    """Print what masking ResNet-50 costs, by target."""
    torch.manual_seed(0)
    model = resnet50_weights()
    if sum(parameter.numel() for parameter in model.parameters()) != PARAMETERS:
        raise SystemExit("the model does not have ResNet-50's parameters")
    print(f"ResNet-50, 50 %, torch {torch.__version__}, threads: {threads}, median of {repeats} runs")
    print("| target | seconds |")
    print("|---|---|")
    for name, target in TARGETS.items():
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            result = prune(model, None, target, thin=False)
            seconds.append(time.perf_counter() - start)
        if not isinstance(target, Distiller):
            check(result, target.structured)
        print(f"| {name} | {statistics.median(seconds[1:]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
