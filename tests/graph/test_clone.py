"""Law: modules and tensors are listed as torch lists them, each once, and a copy has them all."""

from __future__ import annotations

import torch
from torch import nn

from torchthin.graph.clone import clone, duplicate, modules_of, state_tensors


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
