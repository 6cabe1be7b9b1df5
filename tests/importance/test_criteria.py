"""Criteria of weights: each against its formula, and what happens where one cannot rank."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.config import CHANNEL_CRITERIA
from torchthin.dependency.groups import uncoupled
from torchthin.errors import ConfigError
from torchthin.importance.criteria import lamp_scores
from torchthin.importance.registry import row_criterion
from torchthin.importance.scores import ranked


def _kept(mask: Tensor) -> list[int]:
    return torch.nonzero(mask.flatten(1).any(1)).flatten().tolist()


def _net(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))


IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_every_criterion_that_help_names_is_registered() -> None:
    from torchthin.importance.registry import criteria

    assert set(CHANNEL_CRITERIA) <= set(criteria())


def test_fpgm_is_the_mean_distance_to_the_other_filters() -> None:
    rows = torch.randn(9, 14, dtype=torch.float64)
    by_hand = [sum(float((a - b).norm()) for b in rows) / 9 / 14 for a in rows]
    assert row_criterion("fpgm")(rows).tolist() == pytest.approx(by_hand, rel=1e-12)


def test_fpgm_prunes_what_others_can_replace_however_large() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    rows = [[9.0, 9, 9], [9, 9, 9.1], [-1, 0, 0], [0, -30, 0]]
    net[0].weight.data = torch.tensor(rows)[..., None, None]
    result = torchthin.prune(net, IMAGES, 0.25, criterion="fpgm", thin=False)
    assert _kept(result.masks["0.weight"]) in ([0, 2, 3], [1, 2, 3])
    assert _kept(torchthin.prune(net, IMAGES, 0.25, thin=False).masks["0.weight"]) == [0, 1, 3]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_lamp_is_the_share_in_all_that_is_not_smaller(size: int) -> None:
    squares = torch.rand(size, dtype=torch.float64) + 0.01  # no ties
    by_hand = [float(s / squares[squares >= s].sum()) for s in squares]
    assert lamp_scores(squares).tolist() == pytest.approx(by_hand, rel=1e-12)
    assert lamp_scores(squares).max() == 1


def test_lamp_of_zeros_is_zero_and_ties_go_by_index() -> None:
    assert lamp_scores(torch.zeros(3)).tolist() == [0, 0, 0]
    assert lamp_scores(torch.tensor([1.0, 1.0])).tolist() == [0.5, 1.0]


def test_global_lamp_compares_groups_as_they_are_and_empties_none() -> None:
    net = _net()
    net[3].weight.data *= 1e-3  # by size alone this layer would lose all it may
    result = torchthin.prune(net, IMAGES, torchthin.Ratio(0.5, scope="global"), criterion="lamp", thin=False)
    lost = {layer.name: layer.pruned_channels for layer in result.report.layers}
    groups = [uncoupled("0.weight", 0, 8), uncoupled("3.weight", 0, 6)]
    weights = dict(net.named_parameters())
    scores = ranked(groups, weights, {"0.weight": 0, "3.weight": 0}, "lamp").scores
    joined = np.concatenate([scores["0.weight"], scores["3.weight"]])
    limit = np.sort(joined)[7]
    assert lost == {n: int((s < limit).sum()) for n, s in scores.items()} | {"5.weight": 0}


def test_lamp_of_single_weights_ranks_over_all_tensors() -> None:
    net = _net()
    result = torchthin.prune(
        net, None, torchthin.Unstructured(0.7, scope="global"), criterion="lamp", thin=False
    )
    names = ["0.weight", "3.weight", "5.weight"]
    weights = dict(net.named_parameters())
    scores = {name: lamp_scores(weights[name].detach().double().flatten().square()) for name in names}
    gone = sum(int((~result.masks[name]).sum()) for name in names)
    assert gone == int(0.7 * sum(weights[name].numel() for name in names))
    highest = max(float(scores[n][~result.masks[n].flatten()].max()) for n in names)
    free = {n: scores[n].numel() - int(np.ceil(0.1 * scores[n].numel() - 1e-9)) for n in names}
    for name in names:  # what stays is above what goes, unless the floor holds it
        kept = scores[name][result.masks[name].flatten()]
        assert float(kept.min()) >= highest or int((~result.masks[name]).sum()) == free[name]


def test_bn_scale_ranks_by_gamma() -> None:
    net = _net()
    net[1].weight.data = torch.tensor([-8.0, 1, 7, 2, -6, 3, 5, -4])
    result = torchthin.prune(net, IMAGES, 0.5, criterion="bn-scale", thin=False)
    assert _kept(result.masks["0.weight"]) == [0, 2, 4, 6]
    (note,) = [note for note in result.report.notes if "bn-scale" in note]
    assert note == "1 of 2 groups have nothing that bn-scale looks at; l1 ranks them: 3.weight."
    l1 = torchthin.prune(net, IMAGES, 0.5, thin=False)
    assert torch.equal(result.masks["3.weight"], l1.masks["3.weight"])


def test_bn_scale_without_any_batchnorm_is_refused() -> None:
    for inputs in (IMAGES, None):
        with pytest.raises(ConfigError, match="'bn-scale' of prune can rank no channel"):
            torchthin.prune(_net(norm=False), inputs, criterion="bn-scale", thin=False)


def test_random_is_the_same_for_the_same_seed_only() -> None:
    masks = [
        torchthin.prune(_net(), IMAGES, criterion="random", seed=seed).masks["0.weight"]
        for seed in (0, 0, 1, 2, 3)
    ]
    assert torch.equal(masks[0], masks[1])
    assert any(not torch.equal(masks[0], other) for other in masks[2:])
    single = [
        torchthin.prune(
            _net(), None, torchthin.Unstructured(), criterion="random", seed=seed, thin=False
        ).masks["0.weight"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(single[0], single[1])
    assert not torch.equal(single[0], single[2])


@pytest.mark.parametrize("criterion", CHANNEL_CRITERIA)
def test_every_criterion_hits_the_count_and_thins(criterion: str) -> None:
    result = torchthin.prune(_net(), IMAGES, criterion=criterion, data=[IMAGES])
    assert [layer.pruned_channels for layer in result.report.layers] == [4, 3, 0]
    assert result.proof is not None
    assert result.proof.holds


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"criterion": "fpmg"}, "Got 'fpmg'. Did you mean 'fpgm'"),
        (
            {"criterion": "fpgm", "target": torchthin.Unstructured()},
            "one of magnitude, lamp, random, wanda, sparsegpt with the method",
        ),
        ({"criterion": "l2", "target": torchthin.Distiller()}, "must be None for Distiller's masks"),
        ({"criterion": "taylor"}, "'taylor' needs data. Give data="),
        ({"criterion": 3}, "with the method l1-structured. Got 3."),
    ],
)
def test_bad_choices_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        torchthin.prune(_net(), IMAGES, **options)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_data_without_example_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="'activation' needs example_inputs"):
        torchthin.prune(_net(), criterion="activation", data=[IMAGES], thin=False)


@pytest.mark.parametrize("structured", [True, False])
def test_no_layer_collapses_with_a_global_target(structured: bool) -> None:
    net = _net()
    net[3].weight.data *= 1e-6
    kind = torchthin.Ratio if structured else torchthin.Unstructured
    for floor in (0.25, None):
        target = kind(0.7, scope="global", at_least=floor)
        result = torchthin.prune(net, IMAGES, target, criterion="random" if structured else None, thin=False)
        share = 0.1 if floor is None else floor
        groups = [layer for layer in result.report.layers if layer.pruned_channels or not structured]
        assert groups
        for layer in groups:
            size, gone = (
                (layer.filters, layer.pruned_channels)
                if structured
                else (layer.weights, layer.zeroed_weights)
            )
            assert size - gone >= np.ceil(share * size - 1e-9)
        assert result.report.target_reached
