"""Distiller's own masks, recorded, against ours: every case of every supported method, element by element."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.config import DISTILLER_METHODS
from torchthin.errors import InputError

DATA = Path(__file__).parents[1] / "data"
NETS = ("plain", "ties", "odd")


@functools.cache
def vectors(net: str) -> tuple[dict[str, np.ndarray[Any, Any]], list[dict[str, Any]]]:
    with np.load(DATA / f"distiller_{net}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(bytes(arrays["cases_json"]))


def weights(net: str) -> dict[str, Tensor]:
    arrays, _ = vectors(net)
    return {
        name.removeprefix("state/"): torch.from_numpy(array.copy())
        for name, array in arrays.items()
        if name.startswith("state/") and name.endswith("weight") and array.ndim > 1
    }


def expected_mask(net: str, number: int, name: str, shape: list[int] | None, weight: Tensor) -> Tensor:
    if shape is None:
        return torch.ones_like(weight, dtype=torch.bool)
    bits = np.unpackbits(vectors(net)[0][f"mask/{number}/{name}"], count=int(np.prod(shape)))
    return torch.from_numpy(bits.astype(np.bool_)).reshape(shape)


def model_of(tensors: dict[str, Tensor]) -> nn.Module:
    """A model whose convolutions and linear layers have these weights, under these names."""
    model = nn.Module()
    for name, weight in tensors.items():
        layer: nn.Module
        if weight.dim() == 4:
            out, per_group, high, wide = weight.shape
            layer = nn.Conv2d(per_group, out, (high, wide), bias=False)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        model.add_module(name.removesuffix(".weight"), layer)
    model.load_state_dict(tensors)
    return model


def our_masks(case: dict[str, Any], chosen: dict[str, Tensor]) -> dict[str, Tensor]:
    target = torchthin.Distiller(case["method"], case["target"], agp_steps=case["agp_steps"])
    result = torchthin.prune(model_of(chosen), None, target)
    return dict(result.masks)


def cases() -> Iterator[Any]:
    for net in NETS:
        for number, case in enumerate(vectors(net)[1]):
            name = f"{net}-{number}-{case['method']}-{case['target']}-{case['agp_steps']}"
            yield pytest.param(net, number, case, id=name)


def test_every_method_has_vectors() -> None:
    assert {case["method"] for net in NETS for case in vectors(net)[1]} == set(DISTILLER_METHODS)
    assert sum(len(vectors(net)[1]) for net in NETS) == 420


@pytest.mark.parametrize(("net", "number", "case"), list(cases()))
def test_masks_equal_distillers(net: str, number: int, case: dict[str, Any]) -> None:
    tensors = weights(net)
    chosen = {name: tensors[name] for name in case["weights"]}
    if case["error"] is not None:
        with pytest.raises(InputError) as caught:
            our_masks(case, chosen)
        assert "\n" not in str(caught.value)
        return
    masks = our_masks(case, chosen)
    assert set(masks) == set(case["masks"]) == set(chosen)
    for name, shape in case["masks"].items():
        wanted = expected_mask(net, number, name, shape, chosen[name])
        assert masks[name].dtype == torch.bool
        assert torch.equal(masks[name], wanted), f"{name}: {(masks[name] != wanted).sum()} differ"
