"""Law: modules and tensors are listed as torch lists them, each once, and a copy has them all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone, duplicate, modules_of, state_tensors
from torchthin.graph.inputs import as_inputs
from torchthin.graph.recorder import record


def _net() -> nn.Sequential:
    shared = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(2, 3), shared, nn.Sequential(shared, nn.Linear(3, 1)))
    net[2].positions = torch.arange(3)
    net[0].computed = net[0].weight * 2
    net[0].factors = {"plain": 2.0}
    return net


def test_modules_and_tensors_are_listed_once() -> None:
    net = _net()
    assert modules_of(net) == list(net.named_modules())
    assert [name for name, _ in state_tensors(net)] == [
        *(name for name, _ in net.named_parameters()),
        *(name for name, _ in net.named_buffers()),
        "2.positions",
    ]


def test_a_copy_has_tensors_of_its_own_under_the_same_names() -> None:
    net = _net()
    copied = clone(net, duplicate)
    assert copied[1] is copied[2][0]
    copies = dict(state_tensors(copied))
    for name, ours in state_tensors(net):
        assert torch.equal(ours, copies[name]) and ours.data_ptr() != copies[name].data_ptr()


class Forgetful(nn.Module):
    """Drops a tensor of its own while it runs, so that the next ones may get its address."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.table = None
        for _ in range(200):
            x = x + torch.ones(4)
        return x


def test_a_new_tensor_is_never_taken_for_one_of_the_model() -> None:
    graph = record(clone(Forgetful(), duplicate), as_inputs(torch.randn(2, 4)), disposable=True)
    assert graph.state == {}
