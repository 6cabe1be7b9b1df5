"""Models that nobody wrote for this package: thinned by half, proved, and trained on.

By default only the quick models of `conftest.QUICK` are collected. ``pytest tests/zoo --whole-zoo`` collects all of
torchvision's list and of the transformers families; `benchmarks/coverage.py` shows the same list with sizes and times.
"""

import pytest
import torch
from torch import nn
from zoo import Case
from zoo.case import run, tensors, train_step

import torchthin

pytestmark = pytest.mark.usefixtures("foreign_warnings")


def test_thins_and_proves(case: Case) -> None:
    model, inputs = case.build(), case.small()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        before = tensors(run(model, inputs))

    result = torchthin.prune(model, inputs, 0.5, include=["*"])

    assert result.proof is not None and result.proof.holds, str(result.proof)
    assert not result.proof.vacuous
    assert result.report.thinned.after.parameters == _parameters(result.model) < _parameters(model)
    with torch.no_grad():
        after = tensors(run(result.model.eval(), inputs))
    assert [t.shape for t in after] == [t.shape for t in before]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    trained = train_step(model, case.training())
    assert trained <= train_step(result.model, case.training())  # thinning may add a bias


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
