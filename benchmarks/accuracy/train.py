"""Train the dense networks; score any network.

python benchmarks/accuracy/train.py --network resnet vgg --seeds 0 1 2 --epochs 12
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from data import Pictures, Split, augmented, fashion_mnist
from networks import NETWORKS
from torch import Tensor, nn
from torch.nn import functional

BATCH = 128
RUNS = Path("runs/accuracy")


def accuracy(model: nn.Module, pictures: Pictures) -> float:
    """Return the share of the pictures that `model`, in evaluation mode, labels right."""
    model.eval()
    with torch.no_grad():
        hits = [
            (model(images).argmax(1) == labels).sum()
            for images, labels in zip(pictures.images.split(500), pictures.labels.split(500), strict=True)
        ]
    return float(torch.stack(hits).sum()) / len(pictures)


def epochs_of(
    pictures: Pictures, epochs: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled, augmented batches for that many epochs (a fraction of one is a part of it)."""
    steps = round(epochs * (len(pictures) // BATCH))
    while steps > 0:
        for index in torch.randperm(len(pictures), generator=generator).split(BATCH)[
            : len(pictures) // BATCH
        ]:
            if steps <= 0:
                return
            yield augmented(pictures.images[index], generator), pictures.labels[index]
            steps -= 1


def fit_(
    model: nn.Module,
    pictures: Pictures,
    *,
    epochs: float,
    rate: float,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
    float32: bool = False,
) -> None:
    """Train in place: SGD with Nesterov momentum, one cycle of the learning rate up to `rate`.

    float32: without bfloat16 products.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    steps = round(epochs * (len(pictures) // BATCH))
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    model.train()
    for images, labels in epochs_of(pictures, epochs, generator):
        with torch.autocast("cpu", torch.bfloat16, enabled=not float32):
            loss = functional.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        after_step()
    model.eval()


def dense(
    network: str, seed: int, split: Split, epochs: float, folder: Path = RUNS, *, float32: bool = False
) -> nn.Module:
    """Return the trained network of that seed, from `folder` if it was trained before."""
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    path = folder / f"{network}_{seed}_{epochs:g}{'_float32' if float32 else ''}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        fit_(model, split.train, epochs=epochs, rate=0.2, seed=seed, float32=float32)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument(
        "--float32", action="store_true", help="no bfloat16: quicker where a processor has none"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = fashion_mnist()
    for seed in options.seeds:
        for network in options.network:
            start = time.process_time()
            model = dense(network, seed, split, options.epochs, float32=options.float32)
            print(
                f"{network} seed {seed}: validation {accuracy(model, split.validation):.4f}, "
                f"test {accuracy(model, split.test):.4f}, {time.process_time() - start:.0f} CPU s",
                flush=True,
            )


if __name__ == "__main__":
    main()
