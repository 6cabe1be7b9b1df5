"""Law: the multiply-accumulates are those of torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchthin.graph.cost import measure
from torchthin.graph.inputs import as_inputs
from torchthin.graph.sample import Sample


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x, x, x)[0]
        return torch.baddbmm(y, y, y.mT @ y)


CASES = {
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 4, 3, groups=2)),
        (2, 3, 9, 9),
    ),
    "linear layers": (nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False)), (3, 6)),
    "attention": (Attention(), (2, 5, 8)),
    "recurrent": (nn.LSTM(4, 6), (5, 2, 4)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("inference", [False, True])
def test_macs_are_those_of_torch(case: str, inference: bool) -> None:
    net, shape = CASES[case]
    x = torch.randn(shape)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        net.eval()(x)
        torch._C._set_mkldnn_enabled(True)
        torch.backends.mha.set_fastpath_enabled(True)
    with torch.inference_mode(inference):
        cost = measure(net, Sample(as_inputs(x), False))
    assert cost.macs == counter.get_total_flops() // 2 > 0
    assert cost.parameters == sum(p.numel() for p in net.parameters())
