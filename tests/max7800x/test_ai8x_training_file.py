"""What `save_for_training` writes becomes the thin model when it is loaded as ADI's loader does it.

`load_as_adi` follows the facts of that loader: a mask for every named parameter, the recipe run on the full-size model, then the
state dict. The real one has been run on the same files outside the repository; it is run here where it can be imported.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import CheckpointError, InputError, ProofError
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.distiller.recipe import from_distiller, to_distiller
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU, Linear
from torchthin.max7800x.ai8x.training_file import masks_dict, save_for_training
from torchthin.thinning.recipe import Recipe

IMAGES = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = FusedConv2dBNReLU(3, 16, 3, padding=1)
        self.second = FusedMaxPoolConv2dBNReLU(16, 24, 3, padding=1)
        self.third = Conv2d(24, 8, 1)
        self.fc = Linear(8 * 64, 5, bias=True, wide=True)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.third(self.second(self.first(images))).flatten(1))


def chain(seed: int = 0) -> Chain:
    """Return a chain with BatchNorm statistics and shifts, so that dead channels emit constants."""
    torch.manual_seed(seed)
    model = Chain()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def write(path: Path, *, thin: bool = True, seed: int = 0) -> torchthin.PruneResult:
    model = chain(seed)
    result = torchthin.prune(model, IMAGES, 0.5, thin=thin)
    recipe = result.recipe if thin else None
    save_for_training(
        path, model, result.model, result.masks, recipe, arch="chain", epoch=7, example_inputs=IMAGES
    )
    return result


@pytest.fixture
def distiller(monkeypatch: pytest.MonkeyPatch) -> type:
    """A module `distiller.thinning` with the class that the real one has."""
    monkeypatch.setitem(sys.modules, "distiller", ModuleType("distiller"))
    kind = namedtuple("ThinningRecipe", ["modules", "parameters"])
    kind.__module__ = "distiller.thinning"
    module = ModuleType("distiller.thinning")
    monkeypatch.setattr(module, "ThinningRecipe", kind, raising=False)
    monkeypatch.setitem(sys.modules, "distiller.thinning", module)
    return kind


def load_as_adi(model: nn.Module, path: Path) -> dict[str, Tensor | None]:
    """Do what ADI's loader does, and return the masks."""
    held = torch.load(path, weights_only=False)
    masks = {name: held["compression_sched"]["masks_dict"][name] for name, _ in model.named_parameters()}
    for recipe in held.get("thinning_recipes", []):
        layers = dict(model.named_modules())
        for layer, directives in recipe.modules.items():
            for attribute, value in directives.items():
                if attribute in ("running_mean", "running_var"):
                    value = torch.index_select(getattr(layers[layer], attribute), value[0], value[1])
                setattr(layers[layer], attribute, value)
        for name, directives in recipe.parameters.items():
            parameter = model.get_parameter(name)
            for axis, kept in directives:
                assert parameter.size(axis) > kept.nelement()
                parameter.data = torch.index_select(parameter.data, axis, kept)
    model.load_state_dict(held["state_dict"])
    return masks


def test_loading_gives_the_thin_model(tmp_path: Path, distiller: type) -> None:
    result = write(tmp_path / "small.pth.tar")
    model = chain(seed=5)
    masks = load_as_adi(model, tmp_path / "small.pth.tar")
    assert model.first.op is not None and model.first.op.weight.shape == (8, 3, 3, 3)
    assert torch.equal(model(IMAGES), result.model(IMAGES))
    assert all(mask is None for mask in masks.values())


def test_what_stands_in_the_file(tmp_path: Path, distiller: type) -> None:
    write(tmp_path / "small.pth.tar")
    held = torch.load(tmp_path / "small.pth.tar", weights_only=False)
    assert (held["epoch"], held["arch"]) == (7, "chain")
    (recipe,) = held["thinning_recipes"]
    assert type(recipe) is distiller
    assert recipe.modules["first.op"]["out_channels"] == 8
    axis, kept = recipe.modules["first.bn"]["running_var"]
    assert (axis, kept.dtype, len(kept)) == (0, torch.int64, 8)


def test_the_class_is_the_only_foreign_thing(tmp_path: Path) -> None:
    write(tmp_path / "small.pth.tar")
    assert "distiller.thinning" not in sys.modules
    with pytest.raises((pickle.UnpicklingError, ModuleNotFoundError), match="distiller"):
        torch.load(tmp_path / "small.pth.tar", weights_only=True)
    read = read_checkpoint(tmp_path / "small.pth.tar")  # our own reader needs neither the class nor Distiller
    assert (read.skipped, len(read.thinning_recipes)) == ((), 1)


def test_without_a_recipe_masks_go_along_and_nothing_foreign(tmp_path: Path) -> None:
    result = write(tmp_path / "masked.pth.tar", thin=False)
    held = torch.load(tmp_path / "masked.pth.tar", weights_only=True)
    assert "thinning_recipes" not in held
    model = chain(seed=5)
    masks = load_as_adi(model, tmp_path / "masked.pth.tar")
    assert set(masks) == {name for name, _ in model.named_parameters()}
    for name, mask in result.masks.items():
        left = masks[name]
        assert mask.all() if left is None else torch.equal(left.bool(), mask)
    assert masks["first.op.weight"] is not None and masks["first.output_shift"] is None
    assert torch.equal(model(IMAGES), result.model(IMAGES))


def test_masks_of_channels_that_stay_zero_are_cut_with_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    mask = torch.tensor([True, False, False])[:, None, None, None].expand(3, 3, 1, 1)
    recipe = Recipe({"0.weight": (3, 3, 1, 1)}, {"0.weight": {0: (0, 2)}})
    found = masks_dict(model, {"0.weight": mask}, recipe)
    assert found["0.bias"] is None
    weight = found["0.weight"]
    assert weight is not None and weight.dtype == torch.float32
    assert weight.flatten(1).tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe({}, {"0.weight": {0: (0,)}}, added={"0.bias": (1,)}), "cannot add a parameter, and 0.bias"),
        (Recipe({"1.table": (4,)}, {"1.table": {0: (0,)}}), "1.table is another buffer"),
        (Recipe({}, {}), "nothing was removed"),
        (Recipe({"1.running_var": (4,)}, {"1.running_var": {0: (0,)}}), "cuts buffers only"),
    ],
)
def test_what_distiller_cannot_say_is_refused(recipe: Recipe, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].register_buffer("table", torch.arange(4))
    with pytest.raises(InputError, match=message):
        to_distiller(recipe, model)


def test_a_wider_class_is_refused(tmp_path: Path) -> None:
    result = torchthin.prune(chain(), IMAGES, 0.5)
    other = chain()
    other.fc = Linear(8 * 64, 6, bias=True, wide=True)
    with pytest.raises(InputError, match=r"does not become the pruned model .*fc\.op"):
        save_for_training(tmp_path / "x.pth", other, result.model, result.masks, result.recipe, arch="x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_it_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    result = torchthin.prune(model, IMAGES, 0.5, add_biases=True)
    assert result.recipe is not None and result.recipe.added
    with pytest.raises(InputError, match=r"2\.bias was added to absorb the constants"):
        save_for_training(tmp_path / "x.pth", model, result.model, result.masks, result.recipe, arch="x")
    assert list(tmp_path.iterdir()) == []


def test_another_class_is_refused(tmp_path: Path) -> None:
    result = torchthin.prune(chain(), IMAGES, 0.5)
    other = nn.Sequential(nn.Conv2d(3, 16, 3))
    with pytest.raises(InputError, match=r"has no parameter or statistics first\.op\.weight"):
        save_for_training(tmp_path / "x.pth", other, result.model, result.masks, result.recipe, arch="x")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_differ_are_refused(tmp_path: Path) -> None:
    result = torchthin.prune(chain(), IMAGES, 0.5)
    other = chain()
    other.first.pool = nn.MaxPool2d(3, stride=1, padding=1)
    with pytest.raises(ProofError, match="Nothing was written"):
        save_for_training(
            tmp_path / "x.pth",
            other,
            result.model,
            result.masks,
            result.recipe,
            arch="x",
            example_inputs=IMAGES,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_arch_is_needed(tmp_path: Path) -> None:
    result = torchthin.prune(chain(), IMAGES, 0.5)
    with pytest.raises(InputError, match="--arch NAME"):
        save_for_training(tmp_path / "x.pth", chain(), result.model, result.masks, result.recipe, arch="")


@pytest.mark.filterwarnings("ignore")  # that weights_only is off
def test_adis_own_loader_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apputils = pytest.importorskip("distiller.apputils")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    result = write(tmp_path / "small.pth.tar")
    model, _, _, start_epoch = apputils.load_checkpoint(chain(seed=5), str(tmp_path / "small.pth.tar"))
    assert start_epoch == 8
    assert torch.equal(model(IMAGES), result.model(IMAGES))


def test_what_train_py_hands_back_is_read_again(tmp_path: Path) -> None:
    result = write(tmp_path / "small.pth.tar")
    model = torchthin.load(chain(seed=5), tmp_path / "small.pth.tar")
    assert torch.equal(model(IMAGES), result.model(IMAGES))
    read = read_checkpoint(tmp_path / "small.pth.tar")
    assert result.recipe is not None
    again = from_distiller(read.thinning_recipes, chain())
    assert {n: dict(axes) for n, axes in again.keep.items()} == {
        n: dict(axes) for n, axes in result.recipe.keep.items()
    }
    assert again.attributes == result.recipe.attributes
    already = torchthin.load(model, tmp_path / "small.pth.tar")  # a class of the new widths stays as it is
    assert torch.equal(already(IMAGES), result.model(IMAGES))


def test_a_network_whose_batch_norm_training_has_folded_is_read_again(
    tmp_path: Path, distiller: type
) -> None:
    """As after train.py's quantisation-aware phase: the recipe still cuts the BatchNorm that is gone."""
    result = write(tmp_path / "small.pth.tar")
    held = torch.load(tmp_path / "small.pth.tar", weights_only=False)
    trained = copy.deepcopy(result.model).eval()
    fuse_batch_norm_(trained)
    initiate_qat(trained)
    torch.save({**held, "state_dict": trained.state_dict(), "epoch": 30}, tmp_path / "qat.pth.tar")
    again = torchthin.load(chain(seed=5), tmp_path / "qat.pth.tar")
    assert torch.equal(again.eval()(IMAGES), trained(IMAGES))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "thin.pth")  # of a class file
    full = chain(seed=5)
    with pytest.raises(CheckpointError, match=r"first\.op\.weight"):
        torchthin.load(full, tmp_path / "thin.pth")
    assert full.first.bn is not None  # the model is as it was


def test_recipes_follow_one_another_and_flattened_channels_are_cut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6 * 4, 2))
    index = torch.tensor
    first = SimpleNamespace(
        modules={"0": {"out_channels": 4}, "2": {"in_features": 16}},
        parameters={
            "0.weight": [(0, index([0, 2, 3, 5]))],
            "0.bias": [(0, index([0, 2, 3, 5]))],
            "2.weight": [(1, index([0, 2, 3, 5]), (2, 6, 2, 2), (2, 16))],
        },
    )
    second = SimpleNamespace(
        modules={"0": {"out_channels": 2}, "2": {"in_features": 8}},
        parameters={
            "0.weight": [(0, index([1, 3]))],
            "0.bias": [(0, index([1, 3]))],
            "2.weight": [(1, index([1, 3]), (2, 4, 2, 2), (2, 8))],
        },
    )
    recipe = from_distiller([first, second], model)
    assert recipe.keep["0.weight"] == {0: (2, 5)}
    assert recipe.keep["2.weight"] == {1: (8, 9, 10, 11, 20, 21, 22, 23)}
    assert recipe.attributes == {"0": {"out_channels": 2}, "2": {"in_features": 8}}


@pytest.mark.parametrize(
    ("modules", "parameters", "message"),
    [
        (None, None, "damaged"),
        ({}, {"0.weight": [(0,)]}, "damaged"),
        ({}, {"9.weight": [(0, torch.tensor([0]))]}, "cuts 9.weight, which the model does not have"),
        ({}, {"0.weight": [(0, torch.tensor([0, 7]))]}, "indices of 0.weight that the model does not have"),
    ],
)
def test_recipes_that_cannot_be_used(modules: Any, parameters: Any, message: str) -> None:
    recipe = SimpleNamespace(modules=modules, parameters=parameters)
    with pytest.raises(InputError, match=message):
        from_distiller([recipe], nn.Sequential(nn.Conv2d(3, 6, 1)))
