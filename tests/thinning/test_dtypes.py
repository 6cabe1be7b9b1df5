"""Models in float32, bfloat16 and float16, and of several types: the same channels go, under the same verdict, and types stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets.blocks import Net
from nets.small import lively
from torch import Tensor, nn
from torch.nn import functional as F

import torchthin
from torchthin.graph.clone import clone, to_double
from torchthin.graph.inputs import as_inputs
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.precision import DOUBLE

NARROW = (torch.bfloat16, torch.float16)
BLOCKS_HERE = (
    "conv", "residual", "concat", "depthwise", "grouped", "squeeze_excite", "chunked", "normed", "parametric_relu",
    "transposed", "attention", "multihead", "recurrent_cell", "shared", "moved",
)  # fmt: skip


def images(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1)).to(dtype)


def net(name: str, stored: torch.dtype) -> nn.Module:
    """A net whose weights are numbers of bfloat16 and float16 alike, so that every dtype holds the same."""
    torch.manual_seed(0)
    model = lively(Net(((name, 8, 1),), 1)).eval()
    return model.to(torch.bfloat16).to(torch.float16).to(torch.bfloat16).to(stored)


def doubled(model: nn.Module, x: Tensor) -> Tensor:
    mode = CountingMode()
    mode.precision = DOUBLE
    made: Tensor = run(clone(model, to_double), as_inputs(x.double()), mode)
    return made


def masked(model: nn.Module, result: torchthin.PruneResult) -> nn.Module:
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in result.masks.items():
            tensors[name].mul_(mask)
    return model


@pytest.mark.parametrize("name", BLOCKS_HERE)
def test_the_same_channels_go_in_every_dtype(name: str) -> None:
    wide = torchthin.prune(net(name, torch.float32), images(torch.float32), 0.5)
    assert wide.proof is not None and wide.recipe is not None
    for dtype in NARROW:
        result = torchthin.prune(net(name, dtype), images(dtype), 0.5)
        assert result.recipe is not None and result.recipe.keep == wide.recipe.keep
        assert result.proof is not None and result.proof.verdict == wide.proof.verdict
        assert {p.dtype for p in result.model.parameters()} == {dtype}
        if not result.proof.exact:
            continue
        # Constants in biases, factors in weights are rounded to the dtype once they are stored.
        full, small = (
            doubled(model, images(dtype)) for model in (masked(net(name, dtype), result), result.model)
        )
        assert float((full - small).abs().max() / full.abs().max()) <= 16 * torch.finfo(dtype).eps


class Mixed(nn.Module):
    """Layers of several types, with what code does between them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                made: Tensor = self.last(self.norm(self.first(x)).relu())
                return made.float()
        y = self.norm(self.first(x).to(self.norm.weight.dtype)).relu()
        if self.kind == "clamped" and y.dtype == torch.float16:
            y = y.clamp(max=torch.finfo(torch.float16).max - 1000)
        last: Tensor = self.last(y.to(self.last.weight.dtype))
        return last


def with_float_norm(model: Mixed) -> Mixed:
    model.bfloat16().norm.float()
    return model


def with_float_head(model: Mixed) -> Mixed:
    model.half().last.float()
    return model


MIXED: dict[str, Callable[[], Mixed]] = {
    "float norm": lambda: with_float_norm(Mixed("")),
    "float head": lambda: with_float_head(Mixed("")),
    "autocast": lambda: Mixed("autocast"),
    "clamped in float16": lambda: Mixed("clamped").half(),
    "head in float64": lambda: Mixed("").bfloat16(),
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_model_of_several_types_keeps_them(kind: str) -> None:
    torch.manual_seed(0)
    model = MIXED[kind]().eval()
    if kind == "head in float64":
        model.last.double()
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    result = torchthin.prune(model, images(model.first.weight.dtype), 0.5)
    assert result.proof is not None and result.proof.exact
    assert result.model.get_parameter("first.weight").shape == (4, 3, 3, 3)
    assert {name: tensor.dtype for name, tensor in result.model.state_dict().items()} == types


class Spectrum(nn.Module):
    """A Fourier transform, for which the CPU has no kernel in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(torch.fft.fft(self.first(x), dim=1).real.relu())
        return made


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_a_kernel_that_a_dtype_lacks_is_not_missed(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = torchthin.prune(Spectrum().to(dtype), x, 0.5, include=["*"])
    assert result.model.get_parameter("first.weight").shape == (4, 6)
    assert result.proof is not None and result.proof.holds


class Table(nn.Module):
    """Large enough to be widened only as it is read, by code that looks at numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.first, self.last = nn.Embedding(3000, 400), nn.Linear(400, 600), nn.Linear(600, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.rows(x), self.first.weight.t().t(), self.first.bias).relu()
        if bool((y.sum() > 1e9).item()):
            y = y * 2
        made: Tensor = self.last(y)
        return made


@pytest.mark.parametrize("dtype", NARROW)
def test_weights_of_a_large_model_are_widened_as_they_are_read(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(3000, (2, 7))
    result = torchthin.prune(Table().to(dtype), tokens, 0.5, include=["*"])
    assert result.model.get_parameter("first.weight").shape == (300, 200)
    assert result.proof is not None and result.proof.holds
    assert {p.dtype for p in result.model.parameters()} == {dtype}


def test_code_that_changes_a_narrow_weight_is_recorded_all_the_same() -> None:
    """A placeholder cannot be written: the record is made without one."""

    class Writes(Table):
        def forward(self, x: Tensor) -> Tensor:
            self.rows.weight.data.clamp_(-4, 4)
            return super().forward(x)

    torch.manual_seed(0)
    model = Writes().bfloat16()
    before = model.rows.weight.detach().clone()
    result = torchthin.prune(model, torch.randint(3000, (2, 7)), 0.5, include=["first.weight"])
    assert result.model.get_parameter("first.weight").shape == (300, 400)
    assert result.proof is not None and result.proof.holds
    assert torch.equal(model.rows.weight, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("name", [*BLOCKS_HERE, "recurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_the_same_channels_go_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    here = torchthin.prune(net(name, dtype), images(dtype), 0.5)
    there = torchthin.prune(net(name, dtype).cuda(), images(dtype).cuda(), 0.5)
    assert here.recipe is not None and there.recipe is not None and here.proof and there.proof
    assert there.recipe.keep == here.recipe.keep
    assert there.proof.verdict == here.proof.verdict
