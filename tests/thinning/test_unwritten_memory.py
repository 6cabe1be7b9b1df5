"""Memory that code has not written yet holds anything: it is never compared, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets.small import lively
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchthin
from torchthin.graph.operators import UNWRITTEN, operator_name

Make = Callable[..., Tensor]
MAKERS: dict[str, Make] = {
    "zeros": lambda like, *shape: like.new_zeros(shape),
    "new_empty": lambda like, *shape: like.new_empty(shape),
    "empty": lambda like, *shape: torch.empty(shape, dtype=like.dtype),
    "empty_like": lambda like, *shape: torch.empty_like(torch.zeros(shape, dtype=like.dtype)),
    "empty_strided": lambda like, *shape: torch.empty_strided(shape, (shape[1], 1), dtype=like.dtype),
    "new_empty_strided": lambda like, *shape: like.new_empty_strided(shape, (shape[1], 1)),
    "empty_permuted": lambda like, *shape: torch.empty_permuted(shape, (0, 1), dtype=like.dtype),
}


class Filled(nn.Module):
    """Writes two results into one tensor, and reads nothing else of it."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.up(x).relu())
        both = self.make(x, x.shape[0], 24)
        both[:, :8] = self.a(x)
        both[:, 8:16] = self.b(x)
        return self.out(both[:, :16])


class Circular(nn.Sequential):
    """Circular padding is a tensor made without values, and slices written into it."""

    def __init__(self, mode: str = "circular") -> None:
        def conv(a: int, b: int, padding: int) -> nn.Module:
            return nn.Conv2d(a, b, 3, padding=padding, padding_mode=mode)

        super().__init__(conv(3, 8, 1), nn.ReLU(), conv(8, 8, 2), nn.ReLU(), conv(8, 4, 1))


class Garbage(TorchDispatchMode):
    """Memory without values holds other numbers at every call."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if operator_name(func) in UNWRITTEN:
            Garbage.calls += 1
            result.fill_(float("nan") if Garbage.calls % 2 else Garbage.calls)
        return result


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_written_later_is_pruned_as_if_it_were_zeros(name: str) -> None:
    model, x = lively(Filled(MAKERS[name])), torch.randn(3, 8)
    with Garbage():
        result = torchthin.prune(model, x, 0.5, include=["up.weight", "down.weight"])
    assert result.proof is not None and result.proof.holds
    assert (result.model.up.out_features, result.model.down.out_features) == (16, 4)
    masked = torchthin.prune(model, x, 0.5, include=["up.weight", "down.weight"], thin=False).model
    torch.testing.assert_close(result.model(x), masked(x))


def test_circular_padding() -> None:
    model, x = lively(Circular()), torch.randn(2, 3, 8, 8)
    with Garbage():
        result = torchthin.prune(model, x, 0.5)
    assert result.proof is not None and result.proof.holds
    assert [result.model[layer].out_channels for layer in (0, 2, 4)] == [4, 4, 4]
    other = torchthin.prune(lively(Circular("zeros")), x, 0.5)
    assert all(torch.equal(result.masks[name], mask) for name, mask in other.masks.items())
    masked = torchthin.prune(model, x, 0.5, thin=False).model
    torch.testing.assert_close(result.model(x), masked(x))
