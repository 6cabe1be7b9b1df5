"""Ops of the recorded and the thinned run are matched, and what comes from the input is known."""

from __future__ import annotations

import torch
from nets.small import image, lively
from torch import Tensor, nn

import torchthin
from torchthin.dependency.propagate import propagate
from torchthin.graph.inputs import as_inputs
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.trace import trace


class ChannelsLast(nn.Module):
    """Copies its activations, but not when one channel is left: that lies in memory either way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Linear(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1).contiguous()
        return self.c(self.b(y).relu().flatten(1, 2))


def test_a_copy_that_becomes_needless_is_not_counted() -> None:
    model = lively(ChannelsLast())
    result = torchthin.prune(model, image())
    assert result.model.a.out_channels == 1
    counts = []
    for one in (model, result.model):
        mode = CountingMode()
        run(one, as_inputs(image()), mode)
        counts.append((mode.completed, mode.copies))
    assert counts[0][0] == counts[1][0]
    assert (counts[0][1], counts[1][1]) == (1, 0)


class WrittenInto(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        table = torch.zeros(4, 3)
        table[1] = x.mean((0, 2, 3))
        table.view(-1)[:3].add_(1)
        return table * 2


def test_the_base_of_a_view_that_the_input_is_written_into_comes_from_the_input() -> None:
    labels = propagate(trace(WrittenInto(), as_inputs(image())).graph)
    (doubled,) = (op for op in labels.graph.ops if op.name == "aten.mul")
    assert doubled.outputs[0] is not None
    assert doubled.outputs[0].value in labels.from_input
