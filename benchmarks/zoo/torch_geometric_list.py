"""Every model class of torch-geometric that takes node features and edges, small."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.by_signature import arguments, first_that_runs
from zoo.candidates import Candidate
from zoo.case import Inputs

SIZES = {
    "in_channels": 16, "hidden_channels": 32, "out_channels": 4, "num_layers": 3, "num_nodes": 20, "embedding_dim": 16,
    "num_relations": 3, "dim": 16, "edge_dim": 8,
    "num_timesteps": 2, "heads": 2, "num_blocks": 2, "channels": 32, "depth": 2,
}  # fmt: skip


def found() -> Iterator[Candidate]:
    """Yield the models, and every convolution of graphs in a net of two."""
    import torch_geometric.nn as pyg

    for name in pyg.models.__all__:
        kind = getattr(pyg.models, name)
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            yield Candidate(name, name, partial(_open, kind))
    for name in pyg.conv.__all__:
        kind = getattr(pyg.conv, name)
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            yield Candidate(f"two {name}", name, partial(_open_pair, kind))


class Pair(nn.Module):
    """Two graph convolutions with a linear layer between them."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first = _layer(kind, 16, 32)
        self.between, self.last = nn.LazyLinear(24), nn.Linear(24, 16)
        self.second, self.head = _layer(kind, 16, 32), nn.LazyLinear(4)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return four numbers of every node."""
        hidden = self.between(self.first(x, edges).relu()).relu()
        made: torch.Tensor = self.head(self.second(self.last(hidden), edges).relu())
        return made


def _layer(kind: Any, before: int, after: int) -> nn.Module:
    known = {**SIZES, "in_channels": before, "out_channels": after, "channels": before, "K": 2, "kernel_size": 3, "nn":
    nn.Linear(before, after),
             "aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([1, 4, 6]), "alpha": 0.1,
             "eps": 0.1}  # fmt: skip
    layer: nn.Module = kind(**arguments(kind, known))
    return layer


def _open_pair(kind: Any) -> tuple[nn.Module, Inputs]:
    model = Pair(kind)
    inputs = _graph(16)
    model(*inputs)
    return model.eval(), inputs


def _open(kind: Any) -> tuple[nn.Module, Inputs]:
    x, edges = _graph(16)
    ways = [arguments(kind, SIZES, {"num_layers": 3, "out_channels": 4}), arguments(kind, SIZES)]
    numbers, places, batch = (
        torch.randint(1, 10, (20,)),
        torch.randn(20, 3),
        torch.zeros(20, dtype=torch.long),
    )
    return first_that_runs(
        kind,
        ways,
        [(x, edges), (x, edges, batch), (numbers, places, batch), (x, edges, torch.randn(60, 8), batch), x],
    )


def _graph(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, width, generator=generator), torch.randint(0, 20, (2, 60), generator=generator)
