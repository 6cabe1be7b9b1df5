"""What cannot be used is refused in one line, by an exception of this package, and nothing has changed."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import InputError, ProofError
from torchthin.errors import ConfigError

IMAGES = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CALLS: dict[str, Callable[[Any, Any], object]] = {
    "prune": lambda model, inputs: torchthin.prune(model, inputs),
    "thin_": torchthin.thin_,
    "inspect": torchthin.inspect,
    "verify": lambda model, inputs: torchthin.verify(model, model, inputs),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


class Around(nn.Module):
    """A model that does something with the images, or with the result."""

    def __init__(self, before: Callable[[Tensor], Any] = lambda x: x, after: Any = lambda y: y) -> None:
        super().__init__()
        self.net, self.before, self.after = net(), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.net(self.before(x)))


def refused(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("model", [None, "net", nn.Conv2d, {"weight": IMAGES}])
def test_models_that_are_none(call: Callable[[Any, Any], object], model: object) -> None:
    refused(lambda: call(model, IMAGES), ConfigError, "must be a torch.nn.Module")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_models_that_cannot_be_followed(call: Callable[[Any, Any], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        script = torch.jit.trace(net(), IMAGES)
    refused(lambda: call(script, IMAGES), ConfigError, "TorchScript")
    refused(lambda: call(nn.Sequential(net(), script), IMAGES), ConfigError, r"TorchScript \(1\)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.Sequential(nn.LazyConv2d(4, 1))
    refused(lambda: call(lazy, IMAGES), InputError, "0.weight of LazyConv2d has no shape yet")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "inputs, words",
    [
        (
            torch.randn(1, 5, 8, 8),
            r"does not run on the example_inputs: RuntimeError: .*to have 3 channels.*\. Give",
        ),
        ({"image": IMAGES}, "does not run on the example_inputs: TypeError: .*unexpected keyword"),
        ((IMAGES, IMAGES), "does not run on the example_inputs: TypeError: "),
        (IMAGES[:0], "example_inputs must hold values"),
        (IMAGES.to("meta"), "example_inputs must have values"),
        ("images", "must be a tensor, a tuple of arguments or a dict"),
        (IMAGES.numpy(), "must be a tensor, a tuple of arguments or a dict"),
        ((), "must be a tensor, a tuple of arguments or a dict"),
    ],
)
def test_inputs_that_do_not_fit(call: Callable[[Any, Any], object], inputs: object, words: str) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused(lambda: call(model, inputs), InputError, words)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_verify_has_something_to_compare() -> None:
    text = Around(after=lambda y: "a picture of a cat")
    refused(
        lambda: torchthin.verify(text, text, IMAGES), InputError, "must return tensors with values.*Got str"
    )
    nothing = Around(after=lambda y: y * float("nan"))
    refused(lambda: torchthin.verify(nothing, nothing, IMAGES), InputError, "NaN throughout")
    meta = net().to("meta")
    refused(lambda: torchthin.verify(net(), meta, IMAGES), InputError, "meta device")


def test_verify_tells_whose_fault_it_is() -> None:
    broken = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(7, 4, 1))
    refused(
        lambda: torchthin.verify(broken, net(), IMAGES), InputError, "The reference model .* does not run"
    )
    refused(
        lambda: torchthin.verify(net(), broken, IMAGES), ProofError, "The candidate model .* does not run"
    )


def test_verify_runs_models_that_insist_on_their_precision() -> None:
    model = Around(before=lambda x: x.float() / 255)
    proof = torchthin.verify(model, model, IMAGES)
    assert proof.holds
    assert proof.dtype == "float64"
    assert (
        str(proof)
        == "exact: nothing changes, outputs differ by 0.0e+00 (float64, of the output's largest value)"
    )


def test_a_target_missed_by_frozen_layers_does_not_blame_their_size() -> None:
    notes = torchthin.prune(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGES, thin=False).report.notes
    assert notes[0] == "Nothing was pruned: no layer could lose a channel."


def _ends(x: Tensor) -> Tensor:
    raise SystemExit(7)


def _raises(x: Tensor) -> Tensor:
    raise RuntimeError("two lines\nof error")


def _calls_itself(x: Tensor) -> Tensor:
    return _calls_itself(x)


@pytest.mark.parametrize("call", [CALLS["prune"], CALLS["thin_"], CALLS["inspect"]])
@pytest.mark.parametrize(
    "before, words",
    [(_ends, "SystemExit: 7"), (_raises, "two lines of error"), (_calls_itself, "RecursionError")],
)
def test_models_that_do_not_run(
    call: Callable[[Any, Any], object], before: Callable[[Tensor], Any], words: str
) -> None:
    model = Around(before)
    refused(lambda: call(model, IMAGES), InputError, f"does not run on the example_inputs: .*{words}")
    assert model.training


class Drifting(nn.Module):
    """Every run changes a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.net[0].weight.add_(0.1)
        return self.net(x)


def test_a_model_that_changes_its_own_weights_is_left_as_it_is() -> None:
    model = Drifting()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = torchthin.prune(model, IMAGES)  # masked filters come to life again, so what reads them is masked
    assert result.proof is not None
    assert result.proof.exact
    assert not bool(result.masks["net.2.weight"].all())
    refused(lambda: torchthin.thin_(model, IMAGES), torchthin.TargetMissedError, "no dead channel")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
