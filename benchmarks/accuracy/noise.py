"""What can be had from noise alone, on the 5,000 validation pictures: the choices that docs/recover.md tells of.

python benchmarks/accuracy/noise.py --seed 0
"""

from __future__ import annotations

import argparse
import copy

import torch
from run import BUDGETS
from tasks import CALIBRATION, TASKS, FashionMnist
from tools import Job, macs, recalibrated, torch_pruning, torchthin
from torch import nn
from train import accuracy

from torchthin import Budget, Recovery, prune, recover
from torchthin.graph.inputs import as_inputs
from torchthin.io.calibration import calibration
from torchthin.io.noise import noise_like

EPOCHS = 30
WAYS = {
    "l1": torchthin("l1", everywhere=False, refit=True, noise=True),
    "group-l2": torchthin("group-l2", everywhere=False, refit=True, noise=True),
    "group-l2, global": torchthin("group-l2", everywhere=True, refit=True, noise=True, floor=None),
    "reconstruction": torchthin("reconstruction", everywhere=False, refit=True, noise=True),
    "reconstruction, global": torchthin("reconstruction", everywhere=True, refit=True, noise=True),
    "taylor": torchthin("taylor", everywhere=False, refit=True, noise=True),
}
"""All refitted on noise, and ranked by it where the criterion needs data."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    for network in ("resnet", "vgg"):
        task = TASKS[network]
        assert isinstance(task, FashionMnist)
        dense = task.dense(seed)
        print(f"{network}: dense {accuracy(dense, task.split.validation):.3f}", flush=True)
        for share in BUDGETS:
            job = Job(task, dense, int(share * macs(dense, task.example)), *task.calibration(seed))
            found = {name: way(job) for name, way in WAYS.items()}
            found["l1, noise as it is drawn"] = _plain(job, share)
            found[f"l1, {EPOCHS} epochs"] = _distilled(job, share)
            found |= _recalibrated(job)
            scores = [f"{name} {accuracy(m, task.split.validation):.3f}" for name, m in found.items()]
            print(f"{network} at {share:.0%} of the MACs:", "; ".join(scores), flush=True)


def _plain(job: Job, share: float) -> nn.Module:
    example = job.task.example
    drawn = calibration("noise", like=as_inputs(example))
    return prune(job.dense, example, Budget(macs=f"{share}x"), data=drawn).model


def _distilled(job: Job, share: float) -> nn.Module:
    example = job.task.example
    result = prune(job.dense, example, Budget(macs=f"{share}x"))
    return recover(job.dense, result, example, "noise", recovery=Recovery(epochs=EPOCHS)).model


def _recalibrated(job: Job) -> dict[str, nn.Module]:
    """Return what Torch-Pruning leaves, as it is and with BatchNorm statistics of the same noise."""
    noise = noise_like(job.task.example, CALIBRATION, torch.Generator().manual_seed(0))
    found = {}
    for criterion in ("l1", "l2"):
        for everywhere in (False, True):
            name = f"Torch-Pruning {criterion}{', global' if everywhere else ''}"
            small = torch_pruning(criterion, everywhere=everywhere, recalibrate=False)(job)
            found[name] = small
            found[f"{name}, BatchNorm on noise"] = recalibrated(copy.deepcopy(small), noise)
    return found


if __name__ == "__main__":
    main()
