"""Weights that layers compute from other parameters: masked without NaN, thinned, and exactly what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets.small import image, lively
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import torchthin

Wrap = Callable[[nn.Module], nn.Module]


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


class Centred(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.exp()


def under(function: Callable[[], nn.Module]) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", function())
        return layer

    return wrap


WRAPS: dict[str, tuple[Wrap, str]] = {
    "weight_norm by hooks": (nn.utils.weight_norm, "weight_g"),
    "weight_norm": (parametrizations.weight_norm, "parametrizations.weight.original0"),
    "weight_norm of everything": (
        lambda layer: parametrizations.weight_norm(layer, dim=None),
        "parametrizations.weight.original1",
    ),
    "weight_norm of inputs": (
        lambda layer: parametrizations.weight_norm(layer, dim=1),
        "parametrizations.weight.original1",
    ),
    "spectral_norm by hooks": (nn.utils.spectral_norm, "weight_orig"),
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "parametrization": (under(Halved), "parametrizations.weight.original"),
    "masked by torch": (lambda layer: prune.l1_unstructured(layer, "weight", 0.1), "weight_orig"),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated")


def net(wrap: Wrap) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = wrap(nn.Conv2d(3, 8, 3)), wrap(nn.Conv2d(8, 12, 3))
    model = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), nn.Conv2d(12, 2, 1))
    return lively(model).eval()


@pytest.mark.parametrize("name", WRAPS)
def test_thinned_is_masked_exactly(name: str) -> None:
    wrap, masked = WRAPS[name]
    model = net(wrap).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = torchthin.prune(model, image().double())
    assert set(result.masks) == {f"0.{masked}", f"3.{masked}", "5.weight"}
    assert result.report.total.channel_sparsity == 10 / 22
    assert result.report.thinned.inexact == ()
    assert result.proof is not None
    assert result.proof.relative_to_masked <= 1e-9
    only_masked = torchthin.prune(model, image().double(), thin=False).model
    assert torch.isfinite(only_masked(image(3).double())).all()
    torch.testing.assert_close(
        result.model(image(3).double()), only_masked(image(3).double()), rtol=1e-9, atol=1e-9
    )
    assert result.model[3].weight.shape == (6, 4, 3, 3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", WRAPS)
def test_thin_in_place_is_exact_as_well(name: str) -> None:
    model = net(WRAPS[name][0]).double()
    only_masked = torchthin.prune(model, image().double(), thin=False)
    done = torchthin.thin_(model, image().double(), masks=only_masked.masks)
    assert done.inexact == ()
    inputs = image(4).double()
    torch.testing.assert_close(model(inputs), only_masked.model(inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["weight_norm by hooks", "weight_norm"])
def test_without_a_graph_the_least_filters_are_zero_and_the_others_as_they_were(name: str) -> None:
    model = net(WRAPS[name][0])
    model(image())
    was = model[0].weight.detach().clone()
    pruned = torchthin.prune(model, thin=False).model
    pruned(image())
    gone = pruned[0].weight.flatten(1).eq(0).all(1)
    least = was.flatten(1).abs().mean(1).argsort()[:4]
    assert sorted(gone.nonzero().flatten().tolist()) == sorted(least.tolist())
    assert torch.equal(pruned[0].weight[~gone], was[~gone])


@pytest.mark.parametrize("example", [None, image()])
def test_a_weight_that_no_zeros_make_zero_is_left_whole(example: Tensor | None) -> None:
    result = torchthin.prune(net(under(Positive)), example, thin=False)
    assert set(result.masks) <= {"5.weight"}
    assert any("0.weight is computed from other parameters" in note for note in result.report.notes)


def test_statistics_that_nothing_makes_good_for_are_named() -> None:
    result = torchthin.prune(net(under(Centred)), image())
    assert result.proof is not None
    assert result.proof.holds
    assert result.report.thinned.inexact == (
        "3.parametrizations.weight.0: statistics run over fewer channels (6 of 12)",
    )


def test_one_function_of_two_weights() -> None:
    shared = Centred()
    result = torchthin.prune(net(under(lambda: shared)), image())
    assert result.proof is not None
    assert result.proof.holds


def test_a_norm_over_all_filters_is_named() -> None:
    notes = torchthin.prune(net(parametrizations.spectral_norm), image(), thin=False).report.notes
    assert any("0.weight is normalised over all its filters" in note for note in notes)


def test_single_weights_are_left_with_what_is_allowed() -> None:
    result = torchthin.prune(net(parametrizations.weight_norm), None, torchthin.Unstructured(), thin=False)
    assert set(result.masks) == {"5.weight"}
    assert any("whole channels of it can be masked" in note for note in result.report.notes)


def test_named_and_kept_by_the_name_of_the_weight() -> None:
    model = net(parametrizations.weight_norm)
    assert set(torchthin.prune(model, include=["3.weight"], thin=False).masks) == {
        "3.parametrizations.weight.original0"
    }
    kept = torchthin.prune(model, image(), exclude=["3.weight"], thin=False)
    assert "3.parametrizations.weight.original0" not in kept.masks
    assert "0.parametrizations.weight.original0" in kept.masks
