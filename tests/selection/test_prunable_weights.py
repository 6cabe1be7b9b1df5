"""PrunableWeights: what is found on any model, what can be named, what is kept, and what the refusals say."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

import torchthin
from torchthin.errors import InputError, WeightNameError
from torchthin.selection.prunable_weights import PrunableWeight, find_prunable_weights


class HandMade(nn.Module):
    """A module that holds its own convolution weights, and other parameters of many axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.depth_kernel = nn.Parameter(torch.randn(4, 1, 5))
        self.scale_weight = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.position = nn.Parameter(torch.randn(1, 7, 4))
        self.matrix_weight = nn.Parameter(torch.randn(4, 4))


class PlaneNorm(nn.LayerNorm):
    """A norm of torch's family whose weight has three axes."""


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 4, 3)
        self.conv2 = nn.Conv2d(3, 4, 3)
        self.conv3 = nn.Conv3d(3, 4, 3)
        self.up = nn.ConvTranspose2d(4, 6, 2)
        self.hand = HandMade()
        self.bn = nn.BatchNorm2d(4)
        self.norm = PlaneNorm((2, 3, 4))
        self.fc = nn.Linear(4, 2)
        self.rnn = nn.LSTM(4, 4)
        self.embed = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)


CONVOLUTIONS = [
    PrunableWeight("conv1.weight", 0),
    PrunableWeight("conv2.weight", 0),
    PrunableWeight("conv3.weight", 0),
    PrunableWeight("up.weight", 1),
    PrunableWeight("hand.weight", 0),
    PrunableWeight("hand.depth_kernel", 0),
]


def names(model: nn.Module, **choice: object) -> list[str]:
    return [target.name for target in find_prunable_weights(model, **choice).targets]  # type: ignore[arg-type]


def test_structured_defaults_are_all_convolutions() -> None:
    assert list(find_prunable_weights(Everything(), structured=True).targets) == CONVOLUTIONS


def test_unstructured_defaults_add_linear_weights() -> None:
    wanted = [target.name for target in CONVOLUTIONS] + ["fc.weight", "attention.out_proj.weight"]
    assert names(Everything(), structured=False) == wanted


def test_a_convolution_inside_another_layer_is_found() -> None:
    layer = nn.Module()
    layer.op = nn.Conv2d(3, 4, 3)
    assert names(nn.Sequential(layer), structured=True) == ["0.op.weight"]


def test_a_single_layer_is_a_model() -> None:
    assert names(nn.Conv2d(3, 4, 3), structured=True) == ["weight"]


@pytest.mark.parametrize(
    ("conv", "target", "filters"),
    [
        (nn.ConvTranspose2d(4, 6, 2), PrunableWeight("weight", 1), 6),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), PrunableWeight("weight", 1), 3),
        (nn.ConvTranspose2d(4, 4, 2, groups=4), PrunableWeight("weight", 0), 4),
        (nn.ConvTranspose1d(8, 4, 2, groups=4), PrunableWeight("weight", 0, 2), 4),
        (nn.ConvTranspose1d(4, 1, 2), PrunableWeight("weight", 1), 1),
        (nn.Conv2d(4, 8, 3, groups=4), PrunableWeight("weight", 0), 8),
    ],
)
def test_filters_of_transposed_and_grouped_convolutions(
    conv: nn.Module, target: PrunableWeight, filters: int
) -> None:
    (found,) = find_prunable_weights(conv, structured=True).targets
    assert found == target
    group = found.group(conv.get_parameter("weight"))
    assert group.size == filters
    assert group.members[0].indices.shape == (filters, target.per_filter)


def test_a_filter_of_a_transposed_convolution_is_one_output() -> None:
    conv = nn.ConvTranspose1d(8, 4, 2, groups=4)
    (target,) = find_prunable_weights(conv, structured=True).targets
    rows = target.group(conv.weight).members[0].indices[2]
    with torch.no_grad():
        conv.weight[torch.from_numpy(rows)] = 0
        conv.bias.zero_()
        out = conv(torch.randn(1, 8, 5))
    assert [bool((out[0, channel] == 0).all()) for channel in range(4)] == [False, False, True, False]


def test_shared_weights_are_one_target_under_their_first_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    assert names(model, structured=True) == ["0.weight"]
    assert names(model, structured=True, include=["1.weight", "0.weight"]) == ["0.weight"]
    with pytest.raises(InputError, match=r"exclude \(--keep\) holds all 1 weights"):
        find_prunable_weights(model, structured=True, exclude=["1"])


def test_weights_replace_the_defaults_in_model_order() -> None:
    assert names(Everything(), structured=True, include=["fc.weight", "conv2.weight"]) == [
        "conv2.weight",
        "fc.weight",
    ]
    found = ["conv2.weight", "rnn.weight_ih_l0", "embed.weight"]
    assert names(Everything(), structured=False, include=found) == found


def test_a_module_stands_for_the_weights_that_it_holds() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 2, 1),
    )
    assert names(net, structured=True, include=["0", "1.weight"]) == ["0.0.weight", "0.2.weight", "1.weight"]
    assert names(net, structured=True, exclude=["0", "2"]) == ["1.weight"]
    result = torchthin.prune(net, torch.randn(1, 3, 8, 8), 0.5, include=["0"])
    assert [tuple(p.shape) for p in result.model.parameters() if p.dim() > 1] == [
        (4, 3, 3, 3), (4, 4, 3, 3), (6, 4, 1, 1), (2, 6, 1, 1),
    ]  # fmt: skip


def test_a_bias_that_is_excluded_keeps_its_channels_and_the_report_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1))
    result = torchthin.prune(net, torch.randn(1, 3, 8, 8), 0.5, exclude=["0.bias"])
    assert result.model[0].out_channels == 8 and result.model[2].out_channels == 3
    assert "Excluded as asked: 0.bias. Channels that 0.bias is part of are kept with it." in str(
        result.report
    )


@pytest.mark.parametrize(
    ("name", "structured", "sentence"),
    [
        ("conv2.weigth", True, "The model has no weight 'conv2.weigth'. Did you mean 'conv2.weight'"),
        ("bn", True, "It is a module that holds none to prune; its parameters are bn.weight, bn.bias."),
        ("zzz", True, "The first ones are conv1.weight, conv2.weight, conv3.weight, up.weight."),
        (
            "conv2.bias",
            True,
            "it is a 1-d bias of Conv2d. Allowed are floating-point weights of convolutions",
        ),
        ("bn.weight", True, "it is a 1-d weight of BatchNorm2d"),
        ("bn.weight", False, "by an unstructured method: it is a 1-d weight"),
        ("embed.weight", True, "the filters of Embedding cannot go one by one"),
        ("rnn.weight_ih_l0", True, "the filters of LSTM cannot go"),
        ("norm.weight", True, "the filters of PlaneNorm cannot go"),
    ],
)
def test_names_that_cannot_be_pruned(name: str, structured: bool, sentence: str) -> None:
    with pytest.raises(WeightNameError) as caught:
        find_prunable_weights(Everything(), structured=structured, include=[name])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("conv2.weight", ["conv2.weight"]),
        ("conv2", ["conv2.weight"]),
        ("conv?", ["conv1.weight", "conv2.weight", "conv3.weight"]),
        ("*kernel", ["hand.depth_kernel"]),
        ("hand", ["hand.weight", "hand.depth_kernel"]),
        ("fc", ["fc.weight", "fc.bias"]),
    ],
)
def test_keep_patterns(pattern: str, kept: list[str]) -> None:
    plan = find_prunable_weights(Everything(), structured=True, exclude=[pattern])
    assert list(plan.excluded) == kept
    assert [target.name for target in plan.targets] == [t.name for t in CONVOLUTIONS if t.name not in kept]


def test_a_keep_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(
        WeightNameError, match=r"'convv2' matches no weight or module .* Did you mean 'conv2'"
    ):
        find_prunable_weights(Everything(), structured=True, exclude=["convv2"])


@pytest.mark.parametrize(
    ("model", "choice", "sentence"),
    [
        (nn.ReLU(), {}, "it has no convolution weights"),
        (
            nn.Linear(2, 2),
            {},
            "it has no convolution weights; give example inputs, or name others with include",
        ),
        (nn.Conv2d(2, 2, 1), {"exclude": ["*"]}, r"exclude \(--keep\) holds all 1 weights"),
    ],
)
def test_nothing_to_prune_is_an_error(model: nn.Module, choice: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find_prunable_weights(model, structured=True, **choice)  # type: ignore[arg-type]


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its old weight_norm; it is still in use
        return nn.utils.weight_norm(nn.Conv2d(2, 3, 1))


def parametrized() -> nn.Module:
    conv = nn.Conv2d(2, 3, 1)
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    return conv


def torch_pruned() -> nn.Module:
    return torch_prune.l1_unstructured(nn.Conv2d(2, 3, 1), "weight", amount=1)  # type: ignore[no-any-return,no-untyped-call]


@pytest.mark.parametrize("make", [weight_normed, parametrized, torch_pruned])
def test_channels_of_computed_weights_are_targets_single_weights_are_not(make) -> None:  # type: ignore[no-untyped-def]
    model = nn.Sequential(make(), nn.Conv2d(3, 3, 1))
    original = next(name for name, p in model[0].named_parameters() if p.shape == (3, 2, 1, 1))
    for weights in (None, ["0.weight", "1.weight"], ["*"]):
        plan = find_prunable_weights(model, structured=True, include=weights)
        assert [target.name for target in plan.targets] == [f"0.{original}", "1.weight"]
        assert plan.derived[f"0.{original}"].weight == "0.weight"
    for choice in ({"structured": False}, {"structured": True, "plain": True}):
        plan = find_prunable_weights(model, **choice)
        assert [target.name for target in plan.targets] == ["1.weight"]
        assert plan.notes[0].startswith("0.weight is computed from other parameters")
        with pytest.raises(WeightNameError, match=r"0\.weight"):
            find_prunable_weights(model, include=["0.weight"], **choice)
        with pytest.raises(WeightNameError, match="another weight is computed from it"):
            find_prunable_weights(model, include=[f"0.{original}"], **choice)
        with pytest.raises(InputError, match=r"nothing to prune.*computed from other parameters"):
            find_prunable_weights(model[:1], **choice)


def test_lazy_modules_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lazy modules announce themselves
        model = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(InputError, match=r"The weight 0\.weight of LazyConv2d has no shape yet"):
        find_prunable_weights(model, structured=True)


def test_types_that_cannot_be_ranked_are_left_whole_and_said() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1))
    model[0].weight = nn.Parameter(torch.zeros(3, 2, 1, 1, dtype=torch.complex64))
    plan = find_prunable_weights(model, structured=True)
    assert [target.name for target in plan.targets] == ["1.weight"]
    assert plan.notes == ("0.weight is not pruned: its type is torch.complex64 (torch.strided).",)
