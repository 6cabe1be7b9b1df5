"""Experts whose weights lie in one tensor: which expert a row goes to is a number, how wide experts are is not."""

from __future__ import annotations

import copy

import pytest
import torch
from nets.laws import masked_net
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin


class Experts(nn.Module):
    """Every row goes through one of two experts, in order, by a grouped product or by a batched one."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 5)
        self.up, self.down = (nn.Parameter(torch.randn(2, *shape) / 4) for shape in ((2 * 24, 16), (16, 24)))
        self.grouped = grouped

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.grouped:
            return torch._grouped_mm(x, weight.transpose(1, 2), torch.tensor([4, 8], dtype=torch.int32))
        return torch.bmm(x.view(2, 4, -1), weight.transpose(1, 2)).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate, value = self.product(x, self.up).chunk(2, -1)
        return self.last(x + self.product(F.silu(gate) * value, self.down))


@pytest.mark.parametrize("grouped", [True, False])
def test_experts_get_narrower(grouped: bool) -> None:
    if grouped and not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    torch.manual_seed(0)
    result = torchthin.prune(Experts(grouped).eval(), torch.randn(8, 6), include=["*"])
    assert result.proof is not None and result.proof.holds
    assert result.model.up.shape == (2, 24, 8)
    assert result.model.down.shape == (2, 8, 12)


@pytest.mark.parametrize(
    ("dtype", "share", "width"),
    [(torch.float32, 0.3, 20), (torch.float32, 0.5, 12), (torch.bfloat16, 0.5, 16)],
)
def test_grouped_products_keep_widths_that_their_kernels_take(
    dtype: torch.dtype, share: float, width: int
) -> None:
    """Rows of whole 16 bytes; before, experts lost nothing, or in bfloat16 what was proved in float32 did not run."""
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    torch.manual_seed(0)
    net, x = Experts(True).to(dtype).eval(), torch.randn(8, 6, dtype=dtype)
    result = torchthin.prune(net, x, {"mlp": share})
    assert result.proof is not None and result.proof.holds
    assert result.model.down.shape == (2, 16, width)
    assert result.model(x).shape == (8, 5)


class FixedExperts(nn.Module):
    """Every row goes through all experts; what a removed channel emits adds something else to each of them."""

    def __init__(self, product: str) -> None:
        super().__init__()
        self.first, self.last, self.product = nn.Linear(6, 8), nn.Linear(5, 4), product
        self.weight, self.shift = nn.Parameter(torch.randn(3, 8, 5)), nn.Parameter(torch.randn(3, 1, 5))
        self.common = nn.Parameter(torch.randn(5))
        nn.init.uniform_(self.first.bias, 0.5, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if self.product == "matmul":
            return self.last((x[:, None, None] @ self.weight + self.shift).relu())
        if self.product == "einsum":
            return self.last((torch.einsum("nc,eco->eno", x, self.weight) + self.shift).relu())
        rows = x.expand(3, *x.shape)
        if self.product == "baddbmm":
            return self.last(torch.baddbmm(self.shift, rows, self.weight).relu())
        return self.last((torch.bmm(rows, self.weight) + self.common).relu())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("product", ["bmm", "baddbmm", "matmul", "einsum"])
def test_a_constant_that_adds_something_else_to_every_expert_is_masked(product: str, exact: bool) -> None:
    torch.manual_seed(0)
    net = FixedExperts(product).double().eval()
    result = torchthin.prune(
        net, torch.randn(4, 6).double(), include=["first.weight"], exclude=["last"], exact=exact
    )
    assert result.proof is not None and result.proof.exact
    assert result.model.weight.shape == (3, 4, 5)
    masked, other = masked_net(copy.deepcopy(net), result.masks), torch.randn(9, 6).double()
    assert torch.allclose(masked(other), result.model(other), rtol=0, atol=1e-9)
