"""A model whose parts lie on several devices moves its own inputs, by hooks: copies run their own parts under the same hooks."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

import torchthin


class Move:
    """Stands in for the hook of ``device_map``: it sees what goes into a module, before the module does."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def __deepcopy__(self, memo: dict[int, Any]) -> Move:
        return Move(self.seen)

    def pre_forward(self, module: nn.Module, x: Tensor) -> Tensor:
        self.seen.append(x.shape[-1])
        return x.to(next(module.parameters()).device)


def _moved(module: nn.Module, x: Tensor) -> Any:
    return module._old_forward(module._hf_hook.pre_forward(module, x))  # type: ignore[operator, union-attr]


def place(model: nn.Sequential, seen: list[int]) -> nn.Sequential:
    """Exchange the ``forward`` of every layer, as accelerate does."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            hooked: Any = layer
            hooked._hf_hook, hooked._old_forward = Move(seen), layer.forward
            hooked.forward = update_wrapper(partial(_moved, layer), layer.forward)
    return model


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def test_a_placed_model_is_pruned_as_the_plain_one() -> None:
    x, seen = torch.randn(4, 6), list[int]()
    placed = place(net(), seen)
    ours, theirs = torchthin.prune(placed, x, 0.5), torchthin.prune(net(), x, 0.5)
    assert ours.recipe == theirs.recipe
    assert ours.proof is not None and ours.proof.exact
    wanted = theirs.model.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in ours.model.state_dict().items())
    seen.clear()
    assert torch.equal(ours.model(x), theirs.model(x))
    assert seen == [6, 8, 6]
    assert torch.equal(placed(x), net()(x))


def test_a_bias_that_is_added_lies_where_its_layer_does() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16).double(), nn.ReLU(), nn.Linear(16, 3, bias=False))
    parts = nn.Sequential(model[0], nn.ReLU(), _Single(), model[2])
    result = torchthin.prune(parts, torch.randn(4, 6).double(), 0.5, add_biases=True)
    assert result.recipe is not None and result.recipe.added
    assert result.model[3].bias.dtype == torch.float32  # type: ignore[index, union-attr]
    assert result.model(torch.randn(4, 6).double()).dtype == torch.float32


class _Single(nn.Module):
    """Hands on to a part of another type, as to one on another device."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()
