"""`prune` from end to end: counts, copies, dtypes, formats, devices, and what its report says."""

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

import torchthin
from torchthin import Distiller, InputError, PruneConfig, Ratio, Schedule, Unstructured, prune
from torchthin.errors import ConfigError, WeightNameError
from torchthin.pruning.one_shot import plan_pruning
from torchthin.report.prune_report import gathered

TARGETS = [Ratio, Unstructured]
"""Targets that take a share; of n:m see test_patterns."""


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 10, 3, groups=2),
        nn.Conv2d(10, 19, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(19, 7),
    )


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("share", [0.0, 0.29, 0.5, 0.99])
def test_counts_are_exact_and_the_model_untouched(target: Any, share: float) -> None:
    model = net().train()
    before = state(model)
    result = prune(model, None, target(share), thin=False)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert result.model is not model
    assert result.model.training
    for layer in result.report.layers:
        size = layer.filters if target.structured else layer.weights
        pruned = layer.pruned_channels if target.structured else layer.zeroed_weights
        assert pruned == layer.asked == math.floor(share * size)
    for name, value in result.model.state_dict().items():
        mask = result.masks.get(name)
        wanted = before[name] if mask is None else before[name] * mask
        assert torch.equal(value, wanted), name
    assert result.report.target_reached
    assert (result.recipe, result.proof) == (None, None)


def test_the_lowest_filters_go() -> None:
    model = net()
    result = prune(model, exclude=["3"], thin=False)
    for name in ("0.weight", "4.weight"):
        norms = model.get_parameter(name).detach().abs().flatten(1).mean(1)
        keep = result.masks[name].flatten(1).all(1)
        assert norms[~keep].max() < norms[keep].min()


def test_a_grouped_transposed_convolution_loses_its_outputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False))
    pruned = prune(model, None, 0.34, thin=False).model
    dead = (pruned(torch.randn(2, 4, 5, 5)) == 0).flatten(2).all(2).all(0)
    assert dead.view(2, 3).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_without_training_the_steps_end_where_one_shot_ends(steps: int) -> None:
    config = PruneConfig(thin=False, schedule=Schedule("agp", steps))
    gradual, at_once = plan_pruning(net(), None, config).apply(), prune(net(), thin=False)
    assert all(torch.equal(gradual.masks[name], mask) for name, mask in at_once.masks.items())
    assert len(gradual.report.request.schedule) == steps
    assert gradual.report.request.schedule[-1] == 0.5
    assert at_once.report.request.schedule == (0.5,)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_counts_exactly(target: Any, dtype: torch.dtype) -> None:
    result = prune(net().to(dtype), None, target(), thin=False)
    assert result.report.target_reached
    for layer in result.report.layers:
        size = layer.filters if target.structured else layer.weights
        assert (layer.pruned_channels if target.structured else layer.zeroed_weights) == size // 2
    assert all(p.dtype == dtype for p in result.model.parameters())


@pytest.mark.parametrize("target", TARGETS)
def test_memory_format_changes_no_mask(target: Any) -> None:
    plain, last = (
        prune(model, None, target(), thin=False)
        for model in (net(), net().to(memory_format=torch.channels_last))
    )
    assert all(torch.equal(last.masks[name], mask) for name, mask in plain.masks.items())
    assert last.model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("target", TARGETS)
def test_masks_are_where_the_weights_are(target: Any, scope: str, device: str) -> None:
    result = prune(net().to(device), None, target(scope=scope), thin=False)
    assert result.report.target_reached
    for name, mask in result.masks.items():
        weight = result.model.get_parameter(name)
        assert mask.device == weight.device
        assert bool((weight[~mask] == 0).all())


def test_shared_weights_stay_shared_and_are_pruned_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    result = prune(model, None, 0.4, thin=False)
    assert list(result.masks) == ["0.weight"]
    assert result.model[1].weight is result.model[0].weight  # type: ignore[index]
    assert result.report.parameters == 9 + 3 + 3


def test_weights_made_in_inference_mode_can_be_pruned() -> None:
    with torch.inference_mode():
        model = nn.Conv2d(3, 4, 1)
    assert prune(model, thin=False).report.total.pruned_channels == 2


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("target", TARGETS)
def test_scope(target: Any, scope: str) -> None:
    report = prune(net(), None, target(0.3, scope=scope), thin=False).report
    structured, facts = report.request.structured, report.total
    total = facts.filters if structured else facts.weights
    pruned = facts.pruned_channels if structured else facts.zeroed_weights
    assert report.target_reached
    assert pruned == facts.asked
    if scope == "global":
        assert pruned == math.floor(0.3 * total)


def test_an_excluded_layer_is_not_pruned() -> None:
    result = prune(net(), exclude=["4", "*.bias"], thin=False)
    assert "4.weight" not in result.masks
    excluded = result.report.request.excluded
    assert [name for name in excluded if not name.endswith(".bias")] == ["4.weight"]
    assert f"Excluded as asked: {', '.join(excluded)}." in str(result)


def test_nothing_pruned_is_said_and_counts_as_missed() -> None:
    report = prune(net(), None, 0.01, thin=False).report
    assert report.total.zeroed_weights == 0
    assert not report.target_reached
    assert "Nothing was pruned: 0.01 of every layer is less than one channel." in report.notes
    assert "TARGET MISSED" in str(report)


def test_target_zero_is_reached_by_doing_nothing() -> None:
    report = prune(net(), None, 0, thin=False).report
    assert report.target_reached
    assert report.notes == ()


def test_compat_overshoots_with_few_steps_and_ranks_each_tensor_alone() -> None:
    result = prune(net(), None, Distiller("agp-structured", 0.3, agp_steps=3), exclude=["3"], thin=False)
    assert result.report.request.schedule[-1] == pytest.approx(0.3375)
    assert [layer.pruned_channels for layer in result.report.layers] == [8, 6]
    assert "as distiller" in str(result)


def test_compat_prunes_the_input_side_where_distiller_does() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 8, 1))
    layers = prune(model, None, Distiller("l1-structured"), thin=False).report.layers
    assert [(layer.filters, layer.pruned_channels) for layer in layers] == [(4, 2), (8, 4)]
    layers = prune(model, None, Distiller("l1-channels"), include=["1.weight"], thin=False).report.layers
    assert [(layer.filters, layer.pruned_channels) for layer in layers] == [(6, 3)]


def test_input_channels_that_distiller_masks_are_removed() -> None:
    """Nothing reads them, though the filters in front are not zero."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    result = prune(model, torch.ones(1, 3, 8, 8), Distiller("l1-channels"), include=["3.weight"])
    assert result.model[0].out_channels == result.model[3].in_channels == 8
    assert result.proof is not None and result.proof.exact
    masked = prune(model, None, Distiller("l1-channels"), include=["3.weight"], thin=False).model
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(result.model(x), masked(x))


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("cannot pickle a socket\nat all")


def poisoned(value: float) -> nn.Module:
    model = net()
    with torch.no_grad():
        model[4].weight[3, 2, 1, 0] = value
    return model


@pytest.mark.parametrize(
    ("model", "target", "choice", "error", "sentence"),
    [
        (
            net(),
            1.2,
            {},
            ConfigError,
            "The ratio of Ratio (--target-sparsity) must be in [0, 1). Got 1.2.",
        ),
        (net(), 0.5, {"thin": True}, ConfigError, "The example_inputs are needed for Ratio: channels are"),
        (net(), 0.5, {"include": ["1.weight"]}, WeightNameError, "1.weight cannot be pruned"),
        (net(), 0.5, {"exclude": ["nowhere"]}, WeightNameError, "'nowhere' matches no weight"),
        (
            net(),
            Distiller(agp_steps=1),
            {},
            ConfigError,
            "agp_steps of Distiller's AGP must be at least 2",
        ),
        (net(), Distiller(sparsity=0), {}, ConfigError, "must be above its initial 0"),
        (
            net(),
            Distiller(),
            {"include": ["7.weight"]},
            InputError,
            "7.weight cannot be pruned as Distiller does. Distiller ranks the filters of 4-d",
        ),
        (
            poisoned(math.nan),
            0.5,
            {},
            InputError,
            "The weight 4.weight holds 1 NaN and 0 infinite of 1710 values.",
        ),
        (
            poisoned(math.inf),
            0.5,
            {},
            InputError,
            "The weight 4.weight holds 0 NaN and 1 infinite of 1710 values.",
        ),
        (
            net().to("meta"),
            0.5,
            {},
            InputError,
            "The weight 0.weight is on the meta device and has no values.",
        ),
        (nn.ReLU(), 0.5, {}, InputError, "The model has nothing to prune"),
        (
            Stubborn(),
            0.5,
            {},
            InputError,
            "The model (Stubborn) cannot be copied: cannot pickle",
        ),
        ("a.pth", 0.5, {}, ConfigError, "The model of prune must be a torch.nn.Module. Got str."),
    ],
)
def test_refusals_are_one_line_and_change_nothing(
    model: Any, target: Any, choice: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    before = copy.copy(state(model)) if isinstance(model, nn.Module) else {}
    with pytest.raises(error) as caught:
        prune(model, None, target, **{"thin": False, **choice})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, torchthin.TorchthinError)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, value in before.items():
        assert value.is_meta or torch.equal(model.state_dict()[name].nan_to_num(), value.nan_to_num())


def test_the_report_is_json_and_adds_up() -> None:
    report = prune(net(), None, Unstructured(0.3), thin=False).report
    facts = json.loads(json.dumps(report.to_dict()))
    assert facts["layers"][0]["shape"] == [24, 3, 3, 3]
    for key in ("weights", "zeroed_weights", "filters", "pruned_channels", "asked"):
        assert facts[key] == sum(layer[key] for layer in facts["layers"]), key
    assert facts["weight_sparsity"] == facts["zeroed_weights"] / facts["weights"]
    assert facts["parameters"] == sum(p.numel() for p in net().parameters())
    assert facts["model_weight_sparsity"] == facts["zeroed_weights"] / facts["parameters"]
    assert facts["parameter_bytes"] == 4 * facts["parameters"]
    assert facts["macs"] is None


def test_the_table() -> None:
    text = str(prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)), thin=False))
    assert text.splitlines() == [
        "| weight   |   shape | channels pruned | channel sparsity | weights zeroed | weight sparsity |",
        "|----------|---------|-----------------|------------------|----------------|-----------------|",
        "| 0.weight | 8x3x3x3 |          4 of 8 |          50.00 % |     108 of 216 |         50.00 % |",
        "| 2.weight | 5x8x3x3 |          2 of 5 |          40.00 % |     144 of 360 |         40.00 % |",
        "| total    |         |         6 of 13 |          46.15 % |     252 of 576 |         43.75 % |",
        "",
        "l1-structured: asked 50.00 % of the channels (per layer, rounded down), achieved 46.15 %.",
        "All parameters: 252 of 589 zeroed (42.78 %); 2,356 bytes.",
    ]
    assert text.isascii()


def test_the_table_of_a_thinned_model_has_its_new_shapes_in_the_order_of_its_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1))
    report = prune(model, torch.randn(1, 3, 6, 6)).report
    assert str(report).splitlines()[:6] == [
        "| weight   |   shape |   after | channels pruned | channel sparsity |",
        "|----------|---------|---------|-----------------|------------------|",
        "| 0.weight | 8x3x1x1 | 4x3x1x1 |          4 of 8 |          50.00 % |",
        "| 1.weight | 8x1x3x3 | 4x1x3x3 |          4 of 8 |          50.00 % |",
        "| 2.weight | 5x8x1x1 | 5x4x1x1 |          0 of 5 |           0.00 % |",
        "| total    |         |         |         8 of 21 |          38.10 % |",
    ]
    assert report.to_dict()["layers"][2]["thinned_shape"] == [5, 4, 1, 1]


def test_a_layer_under_torchs_masks_falls_with_the_layers_it_is_coupled_to() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return self.c(x + self.b(x))

    model = Residual()
    nn.utils.prune.ln_structured(model.b, "weight", 0.25, n=1, dim=0)
    result = prune(model, torch.randn(1, 3, 4, 4))
    assert result.masks["a.weight"].flatten(1).all(1).sum() == 4
    assert result.model.get_buffer("b.weight_mask").shape == (4, 4, 1, 1)
    assert result.proof is not None and result.proof.holds
    assert model.get_buffer("b.weight_mask").sum() == 6 * 8


def test_inputs_stay_real_where_the_first_parameter_is_complex() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(5, 3)
            self.mix = nn.Parameter(torch.randn(5, 8, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu().to(torch.complex64)
            return self.last((x @ self.mix.t()).abs())

    assert next(Wave().parameters()).is_complex()
    result = prune(Wave(), torch.randn(4, 6), include=["first.weight"])
    assert result.proof is not None and result.proof.holds
    assert result.model.mix.shape == (5, 4)


def test_a_result_shows_itself_in_a_line_and_in_a_notebook() -> None:
    result = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)), torch.randn(1, 3, 9, 9))
    assert repr(result) == "<PruneResult of Sequential: 589 -> 297 parameters, exact>"
    assert result._repr_html_().startswith("<pre>| weight ") and "-&gt;" in result._repr_html_()


def test_notes_that_say_the_same_are_one_line() -> None:
    said = [
        *(f"layer{n}.weight: kept, part of the model's output." for n in range(5)),
        "Look: twice.",
        "Alone.",
    ]
    assert gathered(said) == [
        "layer0.weight, layer1.weight, layer2.weight and 2 more: kept, part of the model's output.",
        "Look: twice.",
        "Alone.",
    ]
