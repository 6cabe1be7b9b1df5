"""What each of two processes does in `test_two_processes`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from training import IMAGES, MORE, Net, batch

from torchthin import InputError, ProofError, Pruner, Ratio, Recovery, Schedule, Unstructured, prune
from torchthin.graph.inputs import as_inputs
from torchthin.pruning.recover import recover
from torchthin.recovery.distillation import distill_


def digest(model: nn.Module) -> list[float]:
    return [float(p.detach().double().sum()) for p in model.parameters()]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, rank: int) -> None:
    images, labels = batch(2 * number + rank)  # each rank has data of its own
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


def said(attempt: Callable[[], object]) -> str:
    """Return with which words an attempt is refused."""
    try:
        attempt()
    except (InputError, ProofError) as error:
        return str(error)
    return ""


def data_parallel(rank: int) -> dict[str, object]:
    net = Net()
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(ddp.parameters(), 0.05, momentum=0.9)
    pruner = Pruner(ddp, IMAGES[:2], schedule=Schedule(steps=4), optimizer=optimizer)
    for step in range(4):
        pruner.step()
        train(ddp, optimizer, step, rank)
        if step == 1:
            pruner.thin_()
            refused = said(lambda old=ddp: old(IMAGES))
            ddp = DistributedDataParallel(net)
    return {"masks": pruner.masks, "weights": digest(net), "refused": refused, "width": net.stem.out_channels}


def first_decides(rank: int) -> dict[str, object]:
    found = {}
    for target in (Ratio(), Unstructured()):
        net = Net()
        pruner = Pruner(net, IMAGES[:2], target, schedule=Schedule(steps=2))
        if rank:
            torch.manual_seed(rank)
            with torch.no_grad():
                for p in net.parameters():
                    p.add_(torch.randn(p.shape))
        pruner.step()
        found[type(target).__name__] = pruner.masks
    return found


def sharded(rank: int) -> dict[str, object]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = Net()
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=3))
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(net.branch, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    pruner.attach_(optimizer)
    for step in range(3):
        pruner.step()
        train(net, optimizer, step, rank)
    state = {name: p.full_tensor() for name, p in net.named_parameters()}
    refused = [said(pruner.thin_), said(lambda: Pruner(net, IMAGES[:2]))]
    return {"masks": pruner.masks, "weights": state, "refused": refused, "pruner": pruner.state_dict()}


def different(rank: int) -> dict[str, object]:
    try:
        Pruner(Net(), IMAGES[:2], 0.5, include=["wide.weight"] if rank else None)
    except ProofError as error:
        return {"told": str(error)}
    return {}


def recovered(rank: int) -> dict[str, object]:
    """A thinned model learns, from inputs that all ranks have, and from inputs that every rank draws for itself."""
    net = Net().eval()
    pruned = prune(net, IMAGES[:2])

    def weights(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(
            recover(net, pruned, IMAGES[:2], inputs, recovery=Recovery(epochs=2, lr=1e-3)).model.state_dict()
        )

    own = torch.randn(40, *IMAGES.shape[1:], generator=torch.Generator().manual_seed(rank))
    fewer = said(lambda: weights(own[: 40 - 8 * rank]))
    shared = copy.deepcopy(pruned.model)
    assert pruned.recipe is not None
    distill_(net, shared, pruned.recipe, as_inputs(MORE), Recovery(epochs=2, lr=1e-3))
    return {"shared": dict(shared.state_dict()), "own": weights(own), "refused": fewer}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    kinds = {
        "data_parallel": data_parallel,
        "first_decides": first_decides,
        "different": different,
        "recovered": recovered,
    }
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):
        kinds["sharded"] = sharded
    torch.save({name: kind(rank) for name, kind in kinds.items()}, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # all is saved; meshes keep groups, and a group's threads may abort an interpreter that ends
