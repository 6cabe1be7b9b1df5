"""Train the stand-ins, a few minutes each, in floating point.

python benchmarks/chip/train_stand_ins.py [--network residual ...] [--seed 0] [--fashion FOLDER]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from stand_in_tasks import TASKS, Fashion, Task
from stand_ins import STAND_INS
from torch import nn

RUNS = Path("runs/chip")


def fit_(model: nn.Module, task: Task, seed: int) -> None:
    """Train in place: AdamW, one cycle of the learning rate."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head = task.head()
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, task.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, total_steps=task.steps)
    model.train().to(memory_format=torch.channels_last)  # quicker on a CPU
    for _ in range(task.steps):
        inputs, labels = task.examples(task.batch, generator)
        if inputs.dim() == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        outputs = model(inputs)
        loss = task.loss(head(outputs) if isinstance(outputs, torch.Tensor) else outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().to(memory_format=torch.contiguous_format)


def trained(network: str, seed: int, folder: Path = RUNS) -> nn.Module:
    """Return the trained network of that seed, from `folder` if it was trained before."""
    torch.manual_seed(seed)
    model, path = STAND_INS[network][0](), folder / f"{network}_{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        fit_(model, TASKS[network], seed)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=STAND_INS, default=list(STAND_INS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fashion", type=Path, default=Fashion.folder)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Fashion.folder = options.fashion
    for network in options.network:
        start = time.process_time()
        model = trained(network, options.seed)
        spent = time.process_time() - start
        print(
            f"{network} seed {options.seed}: {TASKS[network].score(model):.4f}, {spent:.0f} CPU s", flush=True
        )


if __name__ == "__main__":
    main()
