"""Single weights chosen by the inputs of their layers, over a whole model, in Python and on the command line."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchthin import NM, Pruner, PruneResult, Unstructured, load, prune
from torchthin.cli.main import main
from torchthin.errors import ConfigError

X = (
    torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    * torch.tensor([3.0, 1.0, 0.2])[:, None, None]
)


class Net(nn.Module):
    """Convolutions, one with conv groups and one with a BatchNorm, a residual sum, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.split = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.hidden, self.out = nn.Linear(8, 12), nn.Linear(12, 8)
        self.twice = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.split(x)).mean((2, 3))
        x = x + self.out(self.hidden(x).relu())
        return self.twice(self.twice(x).relu())


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def distance(result: PruneResult) -> float:
    with torch.no_grad():
        return float((result.model(X) - net()(X)).square().mean())


@pytest.mark.parametrize("target", [Unstructured(0.5), NM(2, 4)])
def test_sparsegpt_is_nearer_than_wanda_and_magnitude(target: Unstructured | NM) -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = ["hidden", "out", "split"]
    found = {
        criterion: prune(model, X[:2], target, criterion=criterion, data=X, include=names, thin=False)
        for criterion in ("magnitude", "wanda", "sparsegpt")
    }
    assert distance(found["sparsegpt"]) < min(distance(found["wanda"]), distance(found["magnitude"]))
    for result in found.values():
        assert result.report.target_reached
        state = result.model.state_dict()
        for name, mask in result.masks.items():
            assert not bool(state[name][~mask].any())
            assert int((~mask).sum()) == mask.numel() // 2
    assert all(bool((model.state_dict()[name] == tensor).all()) for name, tensor in before.items())


def test_wanda_changes_no_weight_that_is_kept_and_sees_the_layers_before_pruned() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)).eval()
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(32, 4, generator=generator)
    result = prune(model, data[:2], Unstructured(0.5), criterion="wanda", data=data, thin=False)
    arrived = data
    for layer, name in zip(model, ("0.weight", "1.weight"), strict=True):
        weight = layer.weight.detach()
        order = (weight.abs() * arrived.norm(dim=0)).argsort(1)
        keep = torch.ones_like(weight, dtype=torch.bool).scatter_(1, order[:, :2], False)
        assert torch.equal(result.masks[name], keep)
        assert torch.equal(result.model.state_dict()[name], weight * keep)
        arrived = arrived @ (weight * keep).T


def test_half_of_every_four_channels_of_a_convolution_stay_at_every_tap() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    data = torch.randn(8, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    for criterion in ("wanda", "sparsegpt"):
        masks = prune(model, data[:1], NM(2, 4), criterion=criterion, data=data, thin=False).masks
        for mask in masks.values():
            assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()


def test_a_weight_that_is_used_twice_goes_by_magnitude_and_is_named() -> None:
    result = prune(net(), X[:2], Unstructured(0.5), criterion="sparsegpt", data=X, thin=False)
    plain = prune(net(), None, Unstructured(0.5)).masks["twice.weight"]
    assert torch.equal(result.masks["twice.weight"], plain)
    assert any("1 of 5 weights" in note and "twice.weight" in note for note in result.report.notes)


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_what_is_missing_is_said(criterion: str) -> None:
    with pytest.raises(ConfigError, match="needs data"):
        prune(net(), X[:2], Unstructured(0.5), criterion=criterion)
    with pytest.raises(ConfigError, match="needs example_inputs"):
        prune(net(), None, Unstructured(0.5), criterion=criterion, data=X)
    with pytest.raises(ConfigError, match="scope"):
        prune(net(), X[:2], Unstructured(0.5, scope="global"), criterion=criterion, data=X)
    with pytest.raises(ConfigError, match="weights alone"):
        Pruner(net(), X[:2], Unstructured(0.5), criterion=criterion, data=X)


FACTORY = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
"""


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    data, small = tmp_path / "data.pt", tmp_path / "small.pth"
    torch.save(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), data)
    common = ["prune", "--model-factory", f"{tmp_path / 'nets.py'}:make", "--method", "agp-unstructured"]
    common += ["--criterion", "sparsegpt", "--save-to", str(small), "--quiet"]
    assert main([*common, "--input-shape", "1,6"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not small.exists()
    assert main([*common, "--input-shape", "1,6", "--data", str(data)]) == 0
    namespace: dict[str, object] = {}
    exec(FACTORY, namespace)
    fresh = namespace["make"]()  # type: ignore[operator]
    loaded = load(fresh, small)
    assert int((loaded[0].weight == 0).sum()) == 24
    assert int((loaded[2].weight == 0).sum()) == 16
