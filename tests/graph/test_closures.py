"""Functions that close over a model's modules close over the copy's in a copy; other functions stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nets.small import kill_
from snapshot import Snapshot
from torch import Tensor, nn

import torchthin
from torchthin.errors import ProofError
from torchthin.graph.clone import clone, duplicate


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).double().eval()


def x() -> Tensor:
    return torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_what_a_function_holds_is_the_copy_s() -> None:
    model, seen = net(), []

    def width() -> int:
        return int(model[0].out_channels)

    def twice(count: int) -> int:
        return width() if count == 0 else twice(count - 1)

    weight, helper = model[0].weight, model.extra_repr
    model.functions = [width, lambda *, own=model[0]: own.out_channels]
    model.named = {"recursive": twice, "tensor": lambda: weight, "method": lambda: helper.__self__}
    model.note = lambda: seen.append(1)
    copied = clone(model, duplicate)
    copied[0].out_channels = 5
    assert [function() for function in copied.functions] == [5, 5]
    assert (copied.named["recursive"](2), twice(2)) == (5, 8)
    assert copied.named["tensor"]() is copied[0].weight
    assert copied.named["method"]() is copied
    assert copied.note is model.note and copied.note.__closure__[0].cell_contents is seen
    assert copied.functions[0].__qualname__ == width.__qualname__


def test_a_state_that_functions_share_stays_shared() -> None:
    model = net()
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += model[0].out_channels
        return calls

    model.count, model.look = count, lambda: (calls, model)[0]
    copied = clone(model, duplicate)
    assert (copied.count(), copied.look(), calls) == (8, 8, 0)


def scaled(model: Any) -> Any:
    """The width is a number that the hook computes with."""
    model[0].register_forward_hook(lambda module, given, out: out / model[0].out_channels)
    return model


def shaped(model: Any) -> Any:
    """The width is a size that the hook uses."""
    model[0].register_forward_hook(
        lambda module, given, out: out.view(-1, model[0].out_channels, 25).view(
            -1, model[0].out_channels, 5, 5
        )
    )
    return model


@pytest.mark.parametrize("hook", [scaled, shaped])
def test_hooks_that_close_over_the_model(hook: Any, tmp_path: Path) -> None:
    model = hook(net())
    kill_(model, {"0.weight": range(4), "0.bias": range(4)})
    expected, before = model(x()), model[0].out_channels
    try:
        torchthin.thin_(model, x())
    except torchthin.TargetMissedError:
        assert hook is scaled
    assert model[0].out_channels == before or hook is shaped
    torch.testing.assert_close(model(x()), expected)

    full = hook(net())
    result = torchthin.prune(full, x(), 0.5)
    assert result.model[0].out_channels == (8 if hook is scaled else 4)
    found = result.model(x())
    result.save(tmp_path / "small.pth")
    full[0].out_channels = 3  # nothing of the result looks at the model that it was made from
    torch.testing.assert_close(result.model(x()), found)
    torch.testing.assert_close(torchthin.load(hook(net()), tmp_path / "small.pth")(x()), found)


def test_a_model_that_differs_from_the_copy_that_was_proved_is_changed_back() -> None:
    model = net()
    elsewhere = {"model": model}
    model[0].register_forward_hook(lambda module, given, out: out / elsewhere["model"][0].out_channels)
    kill_(model, {"0.weight": range(4), "0.bias": range(4)})
    optimizer = torch.optim.Adam(model.parameters())
    model(x()).sum().backward()
    optimizer.step()
    kill_(model, {"0.weight": range(4), "0.bias": range(4)})
    before = Snapshot(model, optimizer)
    with pytest.raises(
        ProofError, match="something else once it is thinned than the copy that was proved: off by"
    ):
        torchthin.thin_(model, x(), optimizer=optimizer)
    assert before.changes() == []
