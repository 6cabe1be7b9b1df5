"""A second generator of random nets, written without a look at the first: any list of blocks makes a net.

A net is described by data (`Spec`), and every block draws from a seed of its own, so that a net from which blocks are
taken is still a net with the same weights in the others: that is how a wrong claim is made small.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from nets.second_blocks import BLOCKS, ENDS, Block, Draw, Kind
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """A net as data."""

    seed: int
    family: str
    """``pictures``, ``tokens`` or ``series``."""
    blocks: tuple[tuple[str, int], ...]
    """Names and seeds, in order; those that do not fit where they stand are passed over."""
    batch: int
    length: int
    """Side of the example picture, or tokens of the example."""

    def without(self, *numbers: int) -> Spec:
        """Return the net without some blocks."""
        return replace(self, blocks=tuple(b for i, b in enumerate(self.blocks) if i not in numbers))

    def __str__(self) -> str:
        names = " ".join(f"{name}/{seed}" for name, seed in self.blocks)
        return f"{self.seed} {self.family} batch {self.batch} length {self.length}: {names}"


class Net(nn.Module):
    """Entry, blocks, head."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        rng = random.Random(spec.seed)
        width = rng.choice((4, 6, 8))
        self.family = spec.family
        kind: Kind = "T"
        if spec.family == "pictures":
            kind, self.inputs = "P", rng.choice((1, 3))
            self.entry: nn.Module = nn.Conv2d(self.inputs, width, 3, padding=1)
        elif spec.family == "tokens":
            self.inputs = 11
            self.entry = nn.Embedding(11, width)
        else:
            self.inputs = 5
            self.entry = nn.Linear(5, width)
        self.blocks = nn.ModuleList()
        channels, size = width, spec.length
        for name, seed in spec.blocks:
            made = Block()
            draw = Draw(random.Random(seed), channels, size)
            built = BLOCKS[name][1](made, draw) if BLOCKS[name][0] == kind else None
            if built is None:
                self.blocks.append(nn.Identity())
                continue
            made.run, channels, kind = built
            size = draw.size
            self.blocks.append(made)
        self.tied = spec.family == "tokens" and kind == "T" and channels == width and rng.random() < 0.4
        self.head = nn.Conv2d(channels, 3, 1) if kind == "P" else nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for part in self.blocks:
            x = part(x)
        return x @ self.entry.weight.t() if self.tied else self.head(x)


def spec(seed: int) -> Spec:
    """Draw a net."""
    rng = random.Random(seed)
    family = rng.choice(("pictures", "pictures", "tokens", "series"))
    kind = "P" if family == "pictures" else "T"
    blocks = []
    for _ in range(rng.randint(1, 5)):
        name = rng.choice([name for name, (needs, _) in BLOCKS.items() if needs == kind])
        blocks.append((name, rng.randrange(10**6)))
        kind = ENDS.get(name, kind)
    length = rng.choice((7, 8)) if family == "pictures" else rng.choice((1, 4, 5, 6))
    return Spec(seed, family, tuple(blocks), rng.choice((1, 2, 3)), length)


def make(item: Spec) -> Net:
    """Build a net of float64 in evaluation mode; the same numbers every time."""
    state = torch.get_rng_state()
    torch.manual_seed(item.seed)
    net = Net(item)
    torch.set_rng_state(state)
    with torch.no_grad():
        fill(net.entry, item.seed)
        fill(net.head, item.seed + 1)
        for part, (_, seed) in zip(net.blocks, item.blocks, strict=True):
            fill(part, seed)
    return net.double().eval()


def fill(module: nn.Module, seed: int) -> None:
    """Give every number of a module a value of its own; biases and scales of all magnitudes, scales also zero or negative."""
    rng = random.Random(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        generator = torch.Generator().manual_seed((seed * 7919 + zlib.crc32(name.encode())) % 2**31)
        noise = torch.randn(tensor.shape, generator=generator)
        leaf = name.rpartition(".")[2]
        if leaf == "running_var":
            noise = noise.abs() + 0.5
        elif tensor.dim() > 1:
            noise = noise / max(tensor[0].numel(), 1) ** 0.5
        elif leaf == "weight":
            noise = 1 + 0.5 * noise
            if rng.random() < 0.3:
                noise[torch.rand(tensor.shape, generator=generator) < 0.3] = 0.0
            noise *= rng.choice((1.0, 1.0, -1.0, 5.0))
        else:
            noise *= rng.choice((0.0, 0.3, 0.3, 1.0, 3.0, 30.0))
        tensor.copy_(noise)


def inputs(item: Spec, net: Net, seed: int, batch: int | None = None, length: int | None = None) -> Tensor:
    """Return random inputs of the example's size or another one."""
    batch, length = batch or item.batch, length or item.length
    generator = torch.Generator().manual_seed(seed)
    if item.family == "tokens":
        return torch.randint(net.inputs, (batch, length), generator=generator)
    shape = (
        (batch, net.inputs, length, length + 1) if item.family == "pictures" else (batch, length, net.inputs)
    )
    return torch.randn(shape, generator=generator, dtype=torch.float64) * (0.5 + seed % 3)


@dataclass(frozen=True)
class Case:
    """A net of this generator, with the inputs on which it is held against its promise."""

    spec: Spec

    def model(self) -> Net:
        """Return the net, the same every time."""
        return make(self.spec)

    def example(self) -> Tensor:
        """Return the example that pruning sees."""
        return inputs(self.spec, self.model(), 0)

    def others(self) -> Iterator[Tensor]:
        """Yield fresh numbers, other batches, other sizes."""
        net, length = self.model(), self.spec.length
        for seed, batch, size in (
            (1, None, None),
            (2, 1, None),
            (3, 4, None),
            (4, 2, length + 1),
            (5, 1, length + 5),
        ):
            yield inputs(self.spec, net, seed, batch, size)


def smaller(case: Case, still: Callable[[Case], bool]) -> Case:
    """Take blocks out of a net, one by one, as long as something still holds of it."""
    spec = case.spec
    found = True
    while found:
        found = False
        for number in range(len(spec.blocks)):
            less = spec.without(number)
            if still(Case(less)):
                spec, found = less, True
                break
    return Case(spec)
