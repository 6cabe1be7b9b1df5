"""What a reconstruction costs: CPU seconds and peak memory of `recover` on a model of the zoo, thinned by half.

    python benchmarks/recovery_cost.py resnet50 --inputs 256

Workload: random weights, random pictures, `l1-structured` at 50 % of the channels. Timed: `recover` without distillation: one
pass of each model over all inputs, the fits and the distances. Not timed: building, pruning.
Checked: layers were refitted, and the outputs came nearer.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from zoo import cases
from zoo.case import tensors

from torchthin import prune, recover


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = cases(source="torchvision")[options.model]
    model = case.build(0)
    example = tensors(case.inputs())[0]
    result = prune(model, example)
    pictures = torch.randn(options.inputs, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    start, cpu = time.perf_counter(), time.process_time()
    facts = recover(model, result, example, pictures).report.recovery
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert facts is not None and facts.refitted > 0 and facts.after < facts.before, facts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.model}: {facts.refitted} layers refitted from {facts.samples} inputs, distance {facts.before:.3g} -> "
        f"{facts.after:.3g}, {seconds:.0f} s ({cpu:.0f} CPU s), peak memory of the process {peak:.1f} GiB"
    )


if __name__ == "__main__":
    main()
