"""Models whose ops depend on the numbers: they loop over what they find, rank it, or call one head on several maps."""

from __future__ import annotations

import copy

import pytest
import torch
from nets.laws import masked_net
from nets.small import image, lively
from torch import Tensor, nn

import torchthin


class Finder(nn.Module):
    """Does something for every position that it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        found, score = torch.zeros_like(x), self.score(x)
        for row, column in (score[0, 0] > 0.3).nonzero().tolist():
            found[:, :, row, column] = x[:, :, row, column]
        return x * score + found


class Detector(nn.Module):
    """Channels, a search among them, and channels again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        self.search = Finder()
        self.last = nn.Sequential(nn.Conv2d(16, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.search(self.first(x)))
        return out


def test_what_follows_a_search_is_known_by_its_place_in_the_model() -> None:
    model = lively(Detector())
    result = torchthin.prune(model, image())
    assert result.proof is not None and result.proof.holds
    assert isinstance(result.model, Detector)
    assert result.model.last[0].weight.shape[:2] == (6, 8)


class Choosy(nn.Module):
    """Calls one of two experts, whichever the numbers choose."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.level = 0.0
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        out: Tensor = self.experts[int(y.detach().abs().mean() < self.level)](y)
        return out


@pytest.mark.parametrize("share", [0.99, 0.5, 1.5])
def test_an_expert_that_did_not_run_is_named(share: float) -> None:
    model = lively(Choosy())
    with torch.no_grad():
        model.level = share * float(model.first(image()).abs().mean())
    proof = torchthin.prune(model, image()).proof
    assert proof is not None and proof.verdict == "approximate"
    assert any("statistics run over fewer channels" in cause for cause in proof.inexact)
    assert any("did not run on the example" in cause for cause in proof.inexact)
    result = torchthin.prune(model, image(), exact=True)
    for level in (0.0, 1e6):
        model.level = result.model.level = level
        assert torch.allclose(model(image(3)), result.model(image(3)), atol=1e-5)


class Asks(nn.Module):
    """Does something more where the largest number of all channels is large; a channel that is masked holds a larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight[4:] *= 1e-3
            self.first.bias.copy_(torch.tensor([0.0] * 7 + [1.5]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.abs().max() > 1:
            x = x.sigmoid()
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize("exact", [True, False])
def test_a_number_that_the_code_asks_for_is_computed_from_all_channels(exact: bool) -> None:
    torch.manual_seed(0)
    model = Asks().double()
    result = torchthin.prune(model, 9 * torch.randn(4, 6).double(), exact=exact, include=["first.weight"])
    masked, zeros = masked_net(copy.deepcopy(model), result.masks), torch.zeros(4, 6).double()
    if exact:
        assert torch.allclose(masked(zeros), result.model(zeros), rtol=0, atol=1e-9)
    else:
        assert result.proof is not None
        assert result.proof.inexact == ("aten.max: statistics run over fewer channels (4 of 8)",)


class Outside(nn.Module):
    """Takes numbers of its channels out of torch, and computes with them there."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.middle, self.last = how, nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sigmoid()
        means = x.mean(0)
        total = sum(means.tolist()) if self.how == "tolist" else float(means.numpy().sum())
        out: Tensor = self.last(self.middle(x).relu()) * total
        return out


@pytest.mark.parametrize("how", ["tolist", "numpy"])
def test_channels_whose_numbers_leave_torch_are_kept(how: str) -> None:
    torch.manual_seed(0)
    model = Outside(how).double()
    result = torchthin.prune(model, torch.randn(4, 6).double())
    assert result.proof is not None and result.proof.exact
    assert isinstance(result.model, Outside)
    assert (result.model.first.out_features, result.model.middle.out_features) == (8, 4)
    assert any("code takes its numbers out of the tensor" in note for note in result.report.notes)


class Checked(nn.Module):
    """Looks at its numbers before it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        assert not torch.isnan(x).any()
        assert torch.isfinite(x).all()
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize("exact", [True, False])
def test_a_check_of_all_numbers_keeps_no_channel(exact: bool) -> None:
    torch.manual_seed(0)
    result = torchthin.prune(Checked(), torch.randn(4, 6), exact=exact)
    assert result.proof is not None and result.proof.exact
    assert isinstance(result.model, Checked) and result.model.first.out_features == 4


@pytest.mark.parametrize("exact", [True, False])
def test_another_number_is_tried_if_the_example_has_the_same_seed(exact: bool) -> None:
    class Factor(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self[1](self[0](x) * float(x.abs().sum()))
            return out

    model, example = (
        Factor(nn.Linear(6, 8), nn.Linear(8, 3)).double(),
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1)),
    )
    result = torchthin.prune(model, example.double(), exact=exact)
    masked, other = masked_net(copy.deepcopy(model), result.masks), torch.randn(4, 6).double()
    assert torch.allclose(masked(other), result.model(other), rtol=0, atol=1e-9)


class Levels(nn.Module):
    """One head for two maps whose dead channels hold different constants."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.head = nn.Sequential(nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 5, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.fine(x)), self.head(self.coarse(x)[..., ::2, ::2])


def test_a_head_of_several_maps_loses_its_own_channels_and_those_of_the_maps() -> None:
    result = torchthin.prune(lively(Levels()), image())
    assert result.proof is not None and result.proof.holds
    assert isinstance(result.model, Levels)
    assert result.model.head[0].weight.shape[:2] == (32, 8)


def test_maps_whose_dead_channels_must_go_on_emitting_keep_them_and_the_head_loses_its_own() -> None:
    model = lively(Levels())
    with torch.no_grad():
        for weight in (model.fine.weight, model.coarse.weight, model.head[0].weight):
            weight[: len(weight) // 2] = 0.0
    torchthin.thin_(model, image())
    assert model.head[0].weight.shape[:2] == (32, 16)


class Ranking(nn.Module):
    """Ranks positions whose scores are further apart than float64 rounds, but not than float32 does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16, bias=False), nn.Linear(16, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).relu().view(*x.shape[:2], 4, -1).flatten(2)
        y = self.outer(y)
        y = y / y.norm(dim=-1, keepdim=True)
        score = y.sum(-1) + 1e-9 * torch.arange(x.shape[1], dtype=x.dtype)
        return x[:, score[0].topk(x.shape[1]).indices]


def test_ranks_that_float32_cannot_tell_are_settled_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand(1, 1, 8, generator=generator) * torch.rand(1, 64, 1, generator=generator)
    result = torchthin.prune(lively(Ranking()), tokens, include=["*"])
    assert result.proof is not None and result.proof.holds
    assert isinstance(result.model, Ranking)
    assert result.model.inner.out_features == 8


class Finds(nn.Module):
    """Gives as many results as it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.layers(x).flatten()
        return scores[scores > scores.mean()]


def test_results_of_another_number_than_the_masked_models_are_infinitely_far() -> None:
    model = lively(Finds())
    with torch.no_grad():
        model.layers[0].bias.add_(3.0)
    result = torchthin.prune(model, image())
    assert result.proof is not None and result.proof.holds
    assert result.proof.relative_to_masked == float("inf")
    assert result.proof.to_dict()["relative_to_masked"] is None


class MaskedByInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(5, 4), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x.mean(-1) > 0)[:, None].expand(-1, x.shape[1], -1)
        query = self.query(x)
        return self.out(
            nn.functional.scaled_dot_product_attention(query, query, self.value(x), attn_mask=seen)
        )


def test_where_all_keys_may_be_masked_a_constant_value_is_no_constant() -> None:
    """Such a row of attention is zero, not the mean of the values; before torch 2.5 it is no number in either model."""
    zero = hasattr(torch.ops.aten, "_safe_softmax")
    model = lively(MaskedByInput()).double().eval()
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = torchthin.prune(model, x, 0.5)
    assert result.proof is not None and result.proof.exact
    assert ("value.bias" in result.masks) == zero
    for name, mask in result.masks.items():
        model.get_parameter(name).data.mul_(mask)
    assert torch.allclose(model(-x.abs()), result.model(-x.abs()), equal_nan=not zero)
