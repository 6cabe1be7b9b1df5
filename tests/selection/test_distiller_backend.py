"""backend="distiller": the installed Distiller is called as its scheduler calls it, and its masks are ours in compat.

The stub stands for its interface only: what is called with what, and what becomes of the answer. Masks are compared where the
real one can be imported.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchthin import Distiller, InputError, prune
from torchthin.errors import ConfigError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6, 2))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A package `distiller` that drops the first filter, or the first weights, and says how it was called."""
    found: list[Any] = []

    class Pruner:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            found.append((type(self).__name__, args, kwargs))

        def set_param_mask(self, param: Tensor, name: str, maskers: Any, meta: dict[str, Any]) -> None:
            found.append((name, {key: value for key, value in meta.items() if key != "model"}))
            assert meta["model"].get_parameter(name) is param
            if name == "2.weight":
                return  # as Distiller does when less than one filter would go
            keep = (torch.arange(param.shape[0]) > 0).to(param.dtype)
            maskers[name].mask = keep.expand(param[0].numel(), -1).t().view(param.shape)

    pruning, package = ModuleType("distiller.pruning"), ModuleType("distiller")
    for name in (
        "L1RankedStructureParameterPruner",
        "L1RankedStructureParameterPruner_AGP",
        "AutomatedGradualPruner",
    ):
        setattr(pruning, name, type(name, (Pruner,), {}))
    package.__dict__.update(
        pruning=pruning,
        create_model_masks_dict=lambda model: {
            name: SimpleNamespace(mask=None) for name, _ in model.named_parameters()
        },
    )
    monkeypatch.setitem(sys.modules, "distiller", package)
    monkeypatch.setitem(sys.modules, "distiller.pruning", pruning)
    return found


AT_END = {"starting_epoch": 0, "current_epoch": 10, "ending_epoch": 10, "frequency": 1}


@pytest.mark.parametrize(
    ("method", "kind", "args", "kwargs"),
    [
        (
            "l1-structured",
            "L1RankedStructureParameterPruner",
            ("torchthin", "Filters"),
            {"desired_sparsity": 0.3},
        ),
        (
            "agp-structured",
            "L1RankedStructureParameterPruner_AGP",
            ("torchthin",),
            {"initial_sparsity": 0.0, "final_sparsity": 0.3, "group_type": "Filters"},
        ),
        (
            "agp-unstructured",
            "AutomatedGradualPruner",
            ("torchthin",),
            {"initial_sparsity": 0.0, "final_sparsity": 0.3},
        ),
    ],
)
def test_how_it_is_called(
    calls: list[Any], method: str, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = ["0.weight", "2.weight", *(["4.weight"] if method == "agp-unstructured" else [])]
    result = prune(model, None, Distiller(method, 0.3, backend="distiller"))
    assert calls == [(kind, args, {**kwargs, "weights": names}), *((name, AT_END) for name in names)]
    mask = result.masks["0.weight"]
    assert (mask.dtype, mask.flatten(1).all(1).tolist()) == (torch.bool, [False] + [True] * 7)
    assert mask.is_contiguous() and result.masks["2.weight"].all()
    assert not result.model.get_parameter("0.weight")[0].any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_it_raises_names_the_weight(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise AssertionError("Invalid dims")

    monkeypatch.setattr(
        sys.modules["distiller.pruning"].L1RankedStructureParameterPruner, "set_param_mask", fails
    )
    with pytest.raises(InputError, match=r"Distiller cannot prune 0\.weight: AssertionError: Invalid dims"):
        prune(net(), None, Distiller("l1-structured", backend="distiller"), thin=False)


def test_without_distiller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distiller", None)
    monkeypatch.delitem(sys.modules, "distiller.pruning", raising=False)
    with pytest.raises(
        ConfigError, match=r"needs Distiller, which cannot be imported here: .*distiller"
    ) as raised:
        prune(net(), None, Distiller("agp-structured", backend="distiller"), thin=False)
    assert "--compat distiller" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("method", ["agp-structured", "l1-structured", "agp-unstructured"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5])
def test_the_real_one_makes_the_masks_of_compat(method: str, sparsity: float) -> None:
    pytest.importorskip("distiller.pruning")
    model = net()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[4]  # a tie
    own = prune(model, None, Distiller(method, sparsity))
    its = prune(model, None, Distiller(method, sparsity, backend="distiller"))
    assert own.masks.keys() == its.masks.keys()
    assert all(torch.equal(mask, its.masks[name]) for name, mask in own.masks.items())
