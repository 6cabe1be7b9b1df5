"""What a Pruner costs in a training loop: making it, a step, holding the masks, beside one training step of the model.

    python benchmarks/pruner_step.py [MODEL ...]

Models are torchvision's (without weights, 224 x 224, batch 8). Least of five runs, in milliseconds, on one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from zoo import vision_ops

import torchthin


def least_ms(work: Callable[[], object], times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, 1000 * (time.perf_counter() - began))
    return best


def measure(name: str) -> str:
    vision_ops.define()
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(8, 3, 224, 224), torch.randint(1000, (8,))

    def train() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    training = least_ms(train, 2)
    began = time.perf_counter()
    pruner = torchthin.Pruner(model, images[:1], schedule=torchthin.Schedule("linear", steps=100))
    made = 1000 * (time.perf_counter() - began)
    step, hold = least_ms(pruner.step), least_ms(pruner.enforce_)
    return f"| {name} | {made:,.0f} | {step:.1f} | {hold:.1f} | {training:,.0f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| model | make it | step | hold masks | training step |\n|---|---:|---:|---:|---:|")
    for each in sys.argv[1:] or ["resnet18", "resnet50", "mobilenet_v2"]:
        print(measure(each))
