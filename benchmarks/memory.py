"""Memory that pruning takes on top of one forward pass, with the proof and without.

    python benchmarks/memory.py resnet50
    python benchmarks/memory.py resnet50 --unproved

Prints by how much the process's peak grows over that of a forward pass, in units of the model (all parameters and buffers).
"""

from __future__ import annotations

import argparse
import resource

import torch
from coverage_case import SHARE, _unproved
from zoo import cases
from zoo.case import run

from torchthin import prune


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name of a torchvision case of the zoo")
    parser.add_argument("--unproved", action="store_true", help="graph, selection and thinning only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = cases(source="torchvision")[options.model]
    model, inputs = case.build(0), case.inputs()
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with torch.no_grad():
        run(model, inputs)
    before = peak()
    if options.unproved:
        _unproved(model, inputs)
    else:
        result = prune(model, inputs, SHARE, include=["*"])
        assert result.proof is not None and result.proof.holds
    grown = peak() - before
    print(
        f"{options.model}: model {size / 2**20:.0f} MiB, peak grows by {grown / 2**20:.0f} MiB = {grown / size:.2f} models"
    )


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
