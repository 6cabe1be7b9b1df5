"""thin_: which zeros it removes, from which models, and what it leaves alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from nets.small import Biasless, Cached, LazyBuffer, Plain, Tied, Twice, image, kill_, lively
from snapshot import Snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import torchthin
from torchthin import InputError, Recipe, TargetMissedError
from torchthin.errors import CheckpointError
from torchthin.thinning.apply import apply_

DEAD1, DEAD2 = [0, 3, 5], [2]


def masked_plain() -> nn.Module:
    model = lively(Plain()).eval()
    kill_(model, {"conv1.weight": DEAD1, "conv2.weight": DEAD2})
    return model


def test_zeros_in_the_weights() -> None:
    model = masked_plain()
    expected, parameters, modules = (
        model(image()),
        dict(model.named_parameters()),
        dict(model.named_modules()),
    )
    done = torchthin.thin_(model, image())
    assert model.conv1.weight.shape == (5, 3, 3, 3)
    assert model.conv2.weight.shape == (5, 5, 1, 1)
    assert model.bn.running_var.shape == model.bn.bias.shape == (5,)
    assert model.fc.weight.shape == (4, 5)
    sizes = (model.conv1.out_channels, model.bn.num_features, model.conv2.in_channels, model.fc.in_features)
    assert sizes == (5, 5, 5, 5)
    assert done.recipe.keep["conv1.weight"] == {0: (1, 2, 4, 6, 7)}
    torch.testing.assert_close(model(image()), expected)
    assert done.proof.holds and done.proof.relative <= 1e-9 and done.proof.relative_to_masked <= 1e-9
    assert done.inexact == ()
    assert done.parameters_before == sum(p.numel() for p in Plain().parameters())
    assert done.parameters_after == sum(p.numel() for p in model.parameters())
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(m is modules[path] for path, m in model.named_modules())
    assert f"{done.parameters_before:,} -> {done.parameters_after:,}" in str(done)


def test_our_masks() -> None:
    model = lively(Plain()).eval()
    masks = torchthin.prune(model, image(), 0.5, thin=False).masks
    expected = torchthin.prune(model, image(), 0.5, thin=False).model(image())
    done = torchthin.thin_(model, image(), masks=masks)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (4, 3)
    torch.testing.assert_close(model(image()), expected)
    assert masks.keys() == {"conv1.weight", "conv2.weight"}
    for name, mask in masks.items():
        stay = mask.flatten(1).any(1).nonzero().flatten()
        assert done.recipe.keep[name][0] == tuple(stay.tolist())


def test_masks_of_weights_that_stay_are_applied() -> None:
    model = lively(Plain()).eval()
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:2, ::2] = False
    kill_(model, {"conv1.weight": DEAD1})
    torchthin.thin_(model, image(), masks={"fc.weight": mask})
    assert not model.fc.weight[~mask].any()
    assert model.fc.weight[mask].all()


def test_masks_of_single_weights_of_filters_that_stay() -> None:
    model, other = lively(Plain()).eval(), lively(Plain()).eval()
    mask = torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[DEAD1] = False
    with torch.no_grad():
        other.conv1.weight.mul_(mask)
    torchthin.thin_(model, image(), masks={"conv1.weight": mask})
    torchthin.thin_(other, image())
    assert model.conv1.out_channels == 5
    torch.testing.assert_close(model(image()), other(image()))


@pytest.mark.parametrize("wrong", ["name", "shape"])
def test_masks_that_do_not_fit(wrong: str) -> None:
    model = masked_plain()
    name = "conv9.weight" if wrong == "name" else "conv1.weight"
    before = Snapshot(model)
    with pytest.raises(InputError, match=f"The mask {name}"):
        torchthin.thin_(model, image(), masks={name: torch.ones(8, dtype=torch.bool)})
    assert before.changes() == []


@pytest.mark.parametrize("how", ["ln_structured", "random_structured", "custom", "iterative", "unstructured"])
def test_masks_of_torch(how: str) -> None:
    model = lively(Plain()).eval()
    torch.manual_seed(3)
    if how == "ln_structured":
        torch_prune.ln_structured(model.conv1, "weight", 0.5, n=1, dim=0)
    elif how == "random_structured":
        torch_prune.random_structured(model.conv1, "weight", 4, dim=0)
    elif how == "iterative":
        torch_prune.ln_structured(model.conv1, "weight", 2, n=2, dim=0)
        torch_prune.ln_structured(model.conv1, "weight", 2, n=2, dim=0)
    else:
        mask = torch.ones(8, 3, 3, 3)
        mask[:4] = 0
        if how == "unstructured":
            mask[5, 1] = 0
        torch_prune.custom_from_mask(model.conv1, "weight", mask)
    expected = model(image())
    done = torchthin.thin_(model, image())
    assert model.conv1.weight_orig.shape == model.conv1.weight_mask.shape == (4, 3, 3, 3)
    assert model.conv1.weight.shape == (4, 3, 3, 3)  # computed afresh, before any forward pass
    assert (model.conv1.out_channels, model.conv2.in_channels) == (4, 4)
    assert done.proof.relative <= 1e-9
    torch.testing.assert_close(model(image()), expected)
    assert torch_prune.is_pruned(model)
    torch_prune.remove(model.conv1, "weight")
    torch.testing.assert_close(model(image()), expected)
    model(image()).sum().backward()


def test_a_trained_model_with_torch_masks_trains_on() -> None:
    model = lively(Plain())
    torch_prune.ln_structured(model.conv1, "weight", 0.5, n=1, dim=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    loss = model(image()).square().sum()
    loss.backward()
    optimizer.step()
    torchthin.thin_(model, image(), optimizer=optimizer)
    optimizer.zero_grad()
    after = model(image()).square().sum()
    after.backward()
    optimizer.step()
    assert model.conv1.weight_orig.grad.shape == (4, 3, 3, 3)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = Plain().eval()
    wrap(model.conv1)
    lively(model)
    gain = dict(model.named_parameters())
    name = next(n for n in gain if n.endswith(("weight_g", "original0")))
    kill_(model, {name: DEAD1})
    expected = model(image())
    torchthin.thin_(model, image())
    assert model.conv1.weight.shape == (5, 3, 3, 3)
    assert model.conv1.out_channels == 5
    torch.testing.assert_close(model(image()), expected)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_any_parametrization() -> None:
    model = lively(Plain()).eval()
    nn.utils.parametrize.register_parametrization(model.conv1, "weight", Doubled())
    kill_(model, {"conv1.parametrizations.weight.original": DEAD1})
    expected = model(image())
    torchthin.thin_(model, image())
    assert model.conv1.weight.shape == (5, 3, 3, 3)
    assert model.conv1.out_channels == 5
    torch.testing.assert_close(model(image()), expected)


def test_tied_weights_stay_tied() -> None:
    model = lively(Tied()).eval()
    kill_(model, {"up.weight": [1, 7, 9]})
    tokens = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = model(tokens)
    torchthin.thin_(model, tokens)
    assert model.up.weight.shape == (9, 8)
    assert model.head.weight is model.table.weight
    torch.testing.assert_close(model(tokens), expected)


def test_tied_weights_that_are_cut_stay_tied() -> None:
    model = lively(Tied()).eval()
    with torch.no_grad():
        model.table.weight[:, [2, 6]] = 0
    kill_(model, {"down.weight": [2, 6], "down.bias": [2, 6]})
    tokens = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = model(tokens)
    torchthin.thin_(model, tokens)
    assert model.table.weight.shape == (11, 6)
    assert model.table.embedding_dim == model.head.in_features == model.down.out_features == 6
    assert model.head.weight is model.table.weight
    torch.testing.assert_close(model(tokens), expected)


def test_a_module_called_twice() -> None:
    model = lively(Twice()).eval()
    with torch.no_grad():
        for conv in (model.stem, model.block):
            conv.weight[[1, 4]] = 0
            conv.bias[[1, 4]] = 0
    expected = model(image())
    torchthin.thin_(model, image())
    assert model.block.weight.shape == (6, 6, 3, 3)
    assert model.block.in_channels == model.head.in_channels == 6
    torch.testing.assert_close(model(image()), expected)


def test_data_parallel() -> None:
    model = nn.DataParallel(masked_plain())
    expected = model(image())
    done = torchthin.thin_(model, image())
    assert model.module.conv1.out_channels == 5
    assert "module.conv1.weight" in done.recipe.keep
    torch.testing.assert_close(model(image()), expected)


def test_channels_last_stays() -> None:
    model = masked_plain().to(memory_format=torch.channels_last)
    x = image().to(memory_format=torch.channels_last)
    expected = model(x)
    torchthin.thin_(model, x)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    model = masked_plain().to(dtype)
    done = torchthin.thin_(model, image())
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.bn.running_var.dtype == dtype
    assert done.proof.relative <= 1e-9
    assert model(image(dtype=dtype)).dtype == dtype


def test_mixed_dtypes_stay() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1, dtype=torch.float64)
            self.head = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x.to(self.conv.weight.dtype)).to(self.head.weight.dtype))

    model = lively(Mixed()).eval()
    kill_(model, {"conv.weight": DEAD1})
    torchthin.thin_(model, image())
    assert (model.conv.weight.dtype, model.head.weight.dtype) == (torch.float64, torch.float32)
    assert model.head.weight.shape == (4, 5, 1, 1)


def test_hooks_of_the_user_stay_and_count() -> None:
    model = masked_plain()
    seen: list[torch.Size] = []
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model.conv2.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    hooks = [list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in model.modules()]
    expected = model(image())
    torchthin.thin_(model, image())
    assert hooks == [
        list(m._forward_hooks.items()) + list(m._forward_pre_hooks.items()) for m in model.modules()
    ]
    torch.testing.assert_close(model(image()), expected)
    assert seen[-1][1] == 5


def test_gradient_hooks_of_the_user_stay() -> None:
    model = masked_plain()
    model.conv1.weight.register_hook(lambda grad: 0 * grad)
    torchthin.thin_(model, image())
    model(image()).sum().backward()
    assert model.conv1.weight.grad.shape == (5, 3, 3, 3)
    assert not model.conv1.weight.grad.any()


def test_gradients_are_cut_alike() -> None:
    model = masked_plain()
    model(image()).square().sum().backward()
    grad = model.conv1.weight.grad.clone()
    torchthin.thin_(model, image())
    assert torch.equal(model.conv1.weight.grad, grad[[1, 2, 4, 6, 7]])


def test_a_loss_that_is_still_alive_does_no_harm() -> None:
    """Torch keeps gradient accumulators of the old shape for as long as the loss of the last step lives."""
    model = masked_plain()
    loss = model(image()).square().sum()
    loss.backward()
    torchthin.thin_(model, image())
    model(image()).square().sum().backward()
    assert model.conv1.weight.grad.shape == (5, 3, 3, 3)
    assert loss.requires_grad


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_flags_stay(mode: bool) -> None:
    model = masked_plain().train(mode)
    model.bn.eval()
    model.conv1.weight.requires_grad_(False)
    torchthin.thin_(model, image())
    assert (model.training, model.conv1.training, model.bn.training) == (mode, mode, False)
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7


def test_a_thinned_model_can_be_thinned_again() -> None:
    model = masked_plain()
    torchthin.thin_(model, image())
    kill_(model, {"conv1.weight": [1]})
    expected = model(image())
    torchthin.thin_(model, image())
    assert model.conv1.out_channels == 4
    torch.testing.assert_close(model(image()), expected)
    with pytest.raises(TargetMissedError, match="no dead channel"):
        torchthin.thin_(model, image())


@pytest.mark.parametrize("warm", [False, True])
def test_caches_of_the_evaluation_mode(warm: bool) -> None:
    model = lively(Cached()).eval()
    kill_(model, {"conv.weight": DEAD1, "conv.bias": DEAD1})
    fresh = copy.deepcopy(model)(image())
    if warm:
        model(image())
    torchthin.thin_(model, image())
    assert model.conv.out_channels == 5
    assert not model.training
    assert all(table.shape[1] == 5 for table in model.cache.values())
    torch.testing.assert_close(model(image()), fresh)


@pytest.mark.parametrize("warm", [False, True])
def test_buffers_made_at_the_first_call(warm: bool) -> None:
    model = lively(LazyBuffer()).eval()
    kill_(model, {"conv.weight": DEAD1, "conv.bias": DEAD1})
    expected = copy.deepcopy(model)(image())
    if warm:
        model(image())
    torchthin.thin_(model, image())
    assert model.conv.out_channels == 5
    assert hasattr(model, "ramp") == warm
    torch.testing.assert_close(model(image()), expected)


def test_a_plain_tensor_attribute_follows_the_proof_into_float64() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 4, 1)
            self.mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)) @ self.mix)

    model = lively(Constant()).eval()
    kill_(model, {"conv.weight": DEAD1})
    expected = model(image())
    done = torchthin.thin_(model, image())
    assert done.proof.dtype == "float64"
    torch.testing.assert_close(model(image()), expected)
    assert model.mix.dtype == torch.float32


def test_a_weight_without_bias_gets_one_for_the_constant() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False)).eval()
    lively(model)
    kill_(model, {"0.weight": DEAD1})
    expected = model(image())
    with pytest.raises(TargetMissedError, match="add_biases=True gives the layer one"):
        torchthin.thin_(model, image())
    done = torchthin.thin_(model, image(), add_biases=True)
    assert done.recipe.added == {"2.bias": (4,)}
    torch.testing.assert_close(model(image()), expected)
    again = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False)))
    apply_(again, Recipe.from_dict(json.loads(json.dumps(done.recipe.to_dict()))))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(image()), model(image()))


def test_recipes_are_json() -> None:
    done = torchthin.thin_(masked_plain(), image())
    data = done.recipe.to_dict()
    assert Recipe.from_dict(json.loads(json.dumps(data))) == done.recipe
    assert Recipe.from_dict(data).to_dict() == data
    with pytest.raises(CheckpointError, match="version 99"):
        Recipe.from_dict({**data, "version": 99})
    with pytest.raises(CheckpointError, match="damaged"):
        Recipe.from_dict({"version": data["version"]})


def test_one_after_the_other_is_both_at_once() -> None:
    both, stepwise = lively(Plain()).eval(), lively(Plain()).eval()
    kill_(both, {"conv1.weight": [0, 1, 3, 6], "conv2.weight": [2, 4]})
    at_once = torchthin.thin_(both, image()).recipe
    kill_(stepwise, {"conv1.weight": [0, 3], "conv2.weight": [4]})
    first = torchthin.thin_(stepwise, image()).recipe
    kill_(stepwise, {"conv1.weight": [0, 4], "conv2.weight": [2]})  # 1, 6 and 2, counted in what is left
    second = torchthin.thin_(stepwise, image()).recipe
    assert first.then(second) == at_once
    for name, tensor in both.state_dict().items():
        torch.testing.assert_close(stepwise.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_recipes_for_another_class_are_refused() -> None:
    recipe = torchthin.thin_(masked_plain(), image()).recipe
    other = lively(Biasless())
    before = Snapshot(other)
    with pytest.raises(InputError, match=r"conv1\.bias|bn\.weight"):
        apply_(other, recipe)
    assert before.changes() == []


@pytest.mark.parametrize("damage", ["index", "empty", "attribute", "module", "added", "name"])
def test_damaged_recipes_are_refused(damage: str) -> None:
    data = torchthin.thin_(masked_plain(), image()).recipe.to_dict()
    if damage == "index":
        data["keep"]["conv1.weight"]["0"] = [1, 99]
    elif damage == "empty":
        data["keep"]["conv1.weight"]["0"] = []
    elif damage == "attribute":
        data["attributes"]["conv1"]["out_chanels"] = 5
    elif damage == "module":
        data["attributes"]["conv7"] = {"out_channels": 5}
    elif damage == "added":
        data["added"]["conv1.bias"] = [5]
    else:
        data["keep"]["conv7.weight"] = {"0": [1]}
    model = lively(Plain())
    before = Snapshot(model)
    with pytest.raises(InputError, match="recipe"):
        apply_(model, Recipe.from_dict(data))
    assert before.changes() == []


def test_what_varies_over_the_picture_stays() -> None:
    model = lively(LazyBuffer()).eval()
    kill_(model, {"conv.weight": DEAD1})
    with torch.no_grad():
        model.conv.bias.fill_(1)  # times the ramp, a dead channel is no constant
    with pytest.raises(TargetMissedError, match="depends on the input, or on the position"):
        torchthin.thin_(model, image())


def test_padding_is_said_to_be_inexact() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1)).eval()
    lively(model)
    kill_(model, {"0.weight": DEAD1})
    done = torchthin.thin_(model, image())
    assert done.proof.relative <= 1e-9 < 1e-3 < done.proof.relative_to_masked
    assert done.inexact == ("1: a constant of removed channels meets the border",)
    assert done.proof.verdict == "approximate"


def test_nothing_dead_says_so() -> None:
    model = lively(Plain()).eval()
    before = Snapshot(model)
    with pytest.raises(TargetMissedError, match="no dead channel that can be removed"):
        torchthin.thin_(model, image())
    assert before.changes() == []


def test_something_stays_of_a_layer_that_is_all_dead() -> None:
    model = lively(Plain()).eval()
    kill_(model, {"conv1.weight": range(8)})
    expected = model(image())
    torchthin.thin_(model, image())
    assert model.conv1.out_channels == 1
    torch.testing.assert_close(model(image()), expected)


@pytest.mark.parametrize("bad", ["model", None, 3])
def test_bad_arguments(bad: object) -> None:
    with pytest.raises(InputError, match="The model of thin_ must be"):
        torchthin.thin_(bad, image())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="example_inputs must be"):
        torchthin.thin_(masked_plain(), bad)
