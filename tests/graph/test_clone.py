"""Law: the parts of a held model are those it has when the block begins, and are asked for afresh behind it."""

from __future__ import annotations

from torch import nn

from torchthin.graph.clone import held, modules_of, state_tensors


def _net() -> nn.Sequential:
    shared = nn.BatchNorm1d(3)
    return nn.Sequential(nn.Linear(2, 3), shared, nn.Sequential(shared, nn.Linear(3, 1)))


def test_held_parts_are_those_of_the_model() -> None:
    net = _net()
    modules, tensors = modules_of(net), list(state_tensors(net))
    assert [path for path, _ in modules] == [path for path, _ in net.named_modules()]
    assert [name for name, _ in tensors] == [
        *(name for name, _ in net.named_parameters()),
        *(name for name, _ in net.named_buffers()),
    ]
    with held(net), held(net):
        assert modules_of(net) == modules
        assert all(a is b for (_, a), (_, b) in zip(state_tensors(net), tensors, strict=True))


def test_behind_the_block_the_model_is_looked_at_again() -> None:
    net = _net()
    with held(net):
        net.append(nn.ReLU())
        assert len(modules_of(net)) == len(list(net.modules())) - 1
        assert modules_of(net[2]) == list(net[2].named_modules())
    assert modules_of(net) == list(net.named_modules())
