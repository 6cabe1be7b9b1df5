"""Fitting a checkpoint to a model: strict, readable, all or nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints import Checkpoint, load_into


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def checkpoint(state: dict[str, Any]) -> Checkpoint:
    return Checkpoint(Path("best.pth"), state)


def test_values_arrive_in_the_models_dtype() -> None:
    source, model = net().bfloat16(), net()
    load_into(model, checkpoint(source.state_dict()))
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, source[0].weight.float())


def test_wrapped_models_get_their_prefix_back() -> None:
    source, model = net(), nn.Module()
    model.module = net()
    load_into(model, checkpoint(source.state_dict()))
    assert torch.equal(model.module[0].weight, source[0].weight)


def refused(model: nn.Module, state: dict[str, Any], message: str) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as raised:
        load_into(model, checkpoint(state))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_wrong_names_are_listed_with_near_matches() -> None:
    state = net().state_dict()
    renamed = {name.replace("0.weight", "0.wieght"): value for name, value in state.items()}
    text = refused(net(), renamed, r"Missing: 0\.weight\. Unexpected: 0\.wieght\. Did you mean '0\.wieght'\?")
    assert "model factory" in text
    other = {f"layer{index}.w": torch.ones(1) for index in range(9)}
    text = refused(net(), other, r"Missing: 0\.weight, 0\.bias, 1\.weight and 6 more\.")
    assert "Unexpected: layer0.w, layer1.w, layer2.w and 6 more." in text
    refused(net(), {**state, "2.scale": torch.ones(1)}, r"Missing: none\. Unexpected: 2\.scale")


def test_wrong_shapes_are_named() -> None:
    state = net().state_dict()
    state["0.weight"] = torch.ones(8, 3, 3, 3)
    refused(net(), state, r"0\.weight is \(8, 3, 3, 3\), the model has \(4, 3, 3, 3\)")


@pytest.mark.parametrize("value, word", [(float("nan"), "NaN"), (float("inf"), "infinite values")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_named(value: float, word: str, dtype: torch.dtype) -> None:
    state = {name: tensor.clone() for name, tensor in net().to(dtype).state_dict().items()}
    state["2.weight"][0, 1] = value
    refused(net(), state, rf"2\.weight has {word} in 1 of 8 entries")


def test_buffers_may_be_infinite_but_not_nan() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(2))
    load_into(model, checkpoint({**model.state_dict(), "mask": torch.tensor([0.0, float("-inf")])}))
    refused(model, {**model.state_dict(), "mask": torch.tensor([0.0, float("nan")])}, "mask has NaN")


class Renamed(nn.Linear):
    """Reads files of its earlier version, in which the weight was called `kernel`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "kernel" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_models_that_translate_older_names_may() -> None:
    model = nn.Sequential(Renamed(2, 2))
    kernel = torch.randn(2, 2)
    load_into(model, checkpoint({"0.kernel": kernel, "0.bias": torch.zeros(2)}))
    assert torch.equal(model[0].weight, kernel)
    refused(model, {"0.kernel": torch.full((2, 2), float("nan")), "0.bias": torch.zeros(2)}, "kernel has NaN")


def test_some_names_with_a_wrappers_prefix() -> None:
    """As in files of ai8x-training that were saved from a wrapped model and completed from a plain one."""
    source, model = net(), net()
    state = {
        (f"module.{name}" if "0" in name else name): value for name, value in source.state_dict().items()
    }
    load_into(
        model,
        checkpoint({**state, "2.weight": state["2.weight"], "module.2.weight": state["2.weight"].clone()}),
    )
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    other = {**source.state_dict(), "module.2.weight": torch.ones(2, 4, 1, 1)}
    refused(net(), other, r"Unexpected: module\.2\.weight")
