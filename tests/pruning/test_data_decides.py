"""Data without a criterion: channels are chosen by reconstruction, and the layers that are left are refitted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchthin import Budget, PruneResult, Recovery, load, plan, prune, recover
from torchthin.cli.main import main
from torchthin.errors import ConfigError

SOURCE = '''
import torch
from torch import nn


class Encoder(nn.Module):
    """One block of attention and an MLP, on a few tokens."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.inner, self.outer = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        x = x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))
        return self.head(x.mean(1))


def make():
    return Encoder().eval()
'''
_namespace: dict[str, object] = {}
exec(SOURCE, _namespace)
DATA = torch.randn(64, 6, 16, generator=torch.Generator().manual_seed(1))


def encoder() -> nn.Module:
    made = _namespace["make"]()  # type: ignore[operator]
    assert isinstance(made, nn.Module)
    return made


@pytest.fixture(scope="module")
def decided() -> PruneResult:
    return prune(encoder(), DATA[:2], 0.5, data=DATA)


def distance(model: nn.Module) -> float:
    fresh = torch.randn(64, 6, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float((model(fresh) - encoder()(fresh)).square().mean())


def test_the_criterion_is_reconstruction_and_the_layers_are_refitted(decided: PruneResult) -> None:
    ranked = prune(encoder(), DATA[:2], 0.5, data=DATA, criterion="reconstruction")
    assert all(torch.equal(mask, ranked.masks[name]) for name, mask in decided.masks.items())
    assert ranked.report.recovery is None
    assert decided.report.recovery is not None
    assert decided.report.recovery.refitted > 0
    assert distance(decided.model) < distance(ranked.model) < distance(prune(encoder(), DATA[:2], 0.5).model)
    assert any("chosen by reconstruction" in note for note in decided.report.notes)


def test_plan_and_apply_are_prune(decided: PruneResult) -> None:
    found = plan(encoder(), DATA[:2], 0.5, data=DATA).apply()
    state = decided.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())


@pytest.mark.parametrize("chosen", [{"criterion": "l1"}, {"thin": False}])
def test_a_choice_stays_a_choice(chosen: dict[str, object]) -> None:
    found = prune(encoder(), DATA[:2], 0.5, data=DATA, **chosen)  # type: ignore[arg-type]
    plain = prune(encoder(), DATA[:2], 0.5, **chosen)  # type: ignore[arg-type]
    assert found.report.recovery is None
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in found.masks.items())


@pytest.mark.parametrize("target", [0.5, Budget(macs="0.5x")])
def test_a_convolutional_network_is_as_good_in_one_call_as_in_two(target: float | Budget) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    images = torch.randn(40, 3, 8, 8)
    found = prune(net, images[:1], target, data=images)
    chosen = prune(net, images[:1], target, data=images, criterion="reconstruction")
    assert chosen.report.recovery is None
    state = recover(net, chosen, images[:1], images).model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    assert found.report.recovery is not None
    assert found.report.recovery.after < found.report.recovery.before


def test_noise_refits_and_does_not_rank() -> None:
    torch.manual_seed(0)
    net, image = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(),
        torch.randn(1, 3, 8, 8),
    )
    found, plain = prune(net, image, 0.5, data="noise"), prune(net, image, 0.5)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in found.masks.items())
    assert found.report.recovery is not None
    assert found.report.recovery.refitted > 0


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_a_recovery_that_is_named_follows_every_criterion() -> None:
    options: dict[str, Any] = {"data": IMAGES, "criterion": "l1"}
    ranked = prune(convolutions(), IMAGES[:1], 0.5, **options)
    fast = plan(convolutions(), IMAGES[:1], 0.5, **options, recovery="fast").apply()
    assert ranked.report.recovery is None
    assert all(torch.equal(mask, ranked.masks[name]) for name, mask in fast.masks.items())
    state = recover(convolutions(), ranked, IMAGES[:1], IMAGES).model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fast.model.state_dict().items())
    longer = prune(convolutions(), IMAGES[:1], 0.5, data=IMAGES, recovery=Recovery(epochs=2)).report.recovery
    assert longer is not None
    assert longer.stages[-1].name == "distillation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recovery": "slow", "data": IMAGES}, r"must be 'fast' or 'best', or a Recovery. Got 'slow'"),
        ({"recovery": "fast"}, "needs data"),
        ({"recovery": "fast", "data": IMAGES, "thin": False}, "thin=True"),
    ],
)
def test_a_recovery_without_what_it_needs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prune(convolutions(), IMAGES[:1], 0.5, **options)


def test_on_the_command_line(tmp_path: Path, decided: PruneResult) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    torch.save(DATA, tmp_path / "data.pt")
    small = tmp_path / "small.pth"
    given = [
        "prune",
        "--model-factory",
        f"{tmp_path / 'nets.py'}:make",
        "--input-shape",
        "1,6,16",
        "--thin",
        "--quiet",
    ]
    assert main([*given, "--data", str(tmp_path / "data.pt"), "--save-to", str(small)]) == 0
    state = load(encoder(), small).state_dict()
    assert all(
        torch.allclose(tensor, state[name], atol=1e-5) for name, tensor in decided.model.state_dict().items()
    )
