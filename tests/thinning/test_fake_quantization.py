"""Quantisation-aware training of torch.ao: rounding, and the scales that it keeps for each row, follow what is cut."""

from __future__ import annotations

import pytest
import torch
from snapshot import Snapshot
from torch import nn

import torchthin

quantization = pytest.importorskip("torch.ao.quantization")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about its own module

BACKENDS = [("fbgemm", 1), ("fbgemm", 0), ("qnnpack", 1), ("qnnpack", 0)]
"""Scales of weights by row, and one for all; observers fused into the rounding (version 1) and as modules (0)."""


def quantized(backend: str, version: int, seen: int) -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )
    model = nn.Sequential(quantization.QuantStub(), *layers, quantization.DeQuantStub()).train()
    model.qconfig = quantization.get_default_qat_qconfig(backend, version=version)
    model = quantization.prepare_qat(quantization.fuse_modules_qat(model, [["1", "2", "3"]]))
    for _ in range(seen):
        model(pictures())
    return model.eval()


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("observes", [False, True])
@pytest.mark.parametrize(("backend", "version"), BACKENDS)
def test_filters_go_with_their_scales(backend: str, version: int, observes: bool) -> None:
    model = quantized(backend, version, seen=2)
    if not observes:
        model.apply(quantization.disable_observer)
    before = Snapshot(model)
    result = torchthin.prune(model, pictures(), 0.5)
    assert before.changes() == []
    assert result.proof is not None and result.proof.holds
    small = result.model
    assert [small[number].out_channels for number in (1, 4, 6)] == [8, 4, 4]
    rows = small[1].weight_fake_quant.scale
    kept = result.masks["1.weight"].flatten(1).any(1)
    full = model[1].weight_fake_quant.scale
    assert torch.equal(rows, full[kept] if backend == "fbgemm" else full)
    named = any("statistics run over fewer channels" in line for line in result.report.thinned.inexact)
    assert named == observes
    if not observes:
        masked = torchthin.prune(model, pictures(), 0.5, thin=False).model
        torch.testing.assert_close(small(pictures()), masked(pictures()))
    small.train()(pictures()).sum().backward()


def test_an_observer_that_has_seen_nothing_keeps_its_layer() -> None:
    result = torchthin.prune(quantized("fbgemm", 1, seen=0), pictures(), 0.5)
    assert result.model[1].out_channels == 16
    assert any("its observer has seen no data yet" in note for note in result.report.notes)
