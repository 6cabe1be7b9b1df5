"""How long `torchthin.prune` takes on weights of ResNet-50's shapes. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed runs per row; the median is printed")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = resnet50_weights()
    if sum(parameter.numel() for parameter in model.parameters()) != PARAMETERS:
        raise SystemExit("the model does not have ResNet-50's parameters")
    threads, repeats = options.threads, options.repeats
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
