"""A recipe out of a file makes sizes smaller and adds biases; whatever else it says is one line, and the model is as it was."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchthin
from torchthin.cli.main import main
from torchthin.errors import CheckpointError

NET = """
from torch import nn
class Net(nn.Sequential):
    heads = 4
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, affine=False))
        self.sizes = (8, 4)
    @property
    def last(self): raise RuntimeError("code of the class")
def make(): return Net().eval()
"""
X = torch.ones(1, 3, 8, 8)
File = dict[str, Any]
Change = Callable[[File, File], object]


def attribute(path: str, **values: Any) -> Change:
    return lambda recipe, file: recipe["attributes"].setdefault(path, {}).update(values)


def kept(value: Any) -> Change:
    return lambda recipe, file: recipe["keep"]["0.weight"].update({"0": value})


def added(**shapes: Any) -> Change:
    return lambda recipe, file: recipe["added"].update({n.replace("_", ".", 1): s for n, s in shapes.items()})


def weight(value: torch.Tensor) -> Change:
    return lambda recipe, file: file["state_dict"].update({"0.weight": value})


NO_SIZE, NO_BIAS, DAMAGED = (
    "only sizes that the model has can be set",
    "is no bias of a layer",
    "The recipe is damaged",
)
CASES: dict[str, tuple[Change, str]] = {
    "code": (attribute("0", forward=3), NO_SIZE),
    "hooks": (attribute("0", _forward_hooks=[1]), NO_SIZE),
    "parameters": (attribute("0", _parameters={}), NO_SIZE),
    "dict": (attribute("0", __dict__={}), NO_SIZE),
    "class": (attribute("0", __class__=3), NO_SIZE),
    "version": (attribute("3", _version=1), NO_SIZE),
    "weight": (attribute("0", weight=3), "which the model does not have"),
    "flag": (attribute("", training=1), NO_SIZE),
    "flag of a layer": (attribute("1", inplace=1), NO_SIZE),
    "text": (attribute("0", padding_mode="circular"), NO_SIZE),
    "larger": (attribute("0", out_channels=9), NO_SIZE),
    "larger in a tuple": (attribute("0", stride=[2, 2]), NO_SIZE),
    "shorter tuple": (attribute("", sizes=[8]), NO_SIZE),
    "nothing": (attribute("0", out_channels=0), NO_SIZE),
    "truth": (attribute("0", out_channels=True), NO_SIZE),
    "fraction": (attribute("0", out_channels=2.5), NO_SIZE),
    "property": (attribute("", last=1), NO_SIZE),
    "unknown": (attribute("0", nothing_of_the_kind=1), "which the model does not have"),
    "unknown module": (attribute("9", out_channels=1), "which the model does not have"),
    "endless bias": (added(**{"0_bias": [10**15]}), NO_BIAS),
    "negative bias": (added(**{"0_bias": [-4]}), NO_BIAS),
    "bias without a layer": (added(**{"3_bias": [4]}), NO_BIAS),
    "bias by another name": (
        added(**{"0__backward_hooks": [4]}),
        "which the model has already or cannot have",
    ),
    "bias of torch": (added(**{"0__is_full_backward_hook": [4]}), NO_BIAS),
    "the same channel": (kept([1, 1, 1, 1]), DAMAGED),
    "falling": (kept([4, 3, 2, 1]), DAMAGED),
    "fractions": (kept([0.5, 1, 2, 3]), DAMAGED),
    "truths": (kept([False, True, 2, 3]), DAMAGED),
    "letters": (kept("0123"), DAMAGED),
    "lists": (kept([[1], [2]]), DAMAGED),
    "a number": (kept(3), DAMAGED),
    "outside": (kept([0, 1, 2, 8]), DAMAGED),
    "no shape": (lambda recipe, file: recipe["shapes"].pop("0.weight"), DAMAGED),
    "shapes": (lambda recipe, file: recipe["shapes"].update({"0.weight": "8333"}), DAMAGED),
    "no dict": (lambda recipe, file: recipe.update(keep=[1]), DAMAGED),
    "values on no device": (weight(torch.empty(4, 3, 3, 3, device="meta")), "0.weight is on the meta device"),
    "sparse values": (weight(torch.zeros(4, 3, 3, 3).to_sparse()), "0.weight is torch.sparse_coo"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    (folder / "net.py").write_text(NET)
    torchthin.prune(made(folder), X).save(folder / "thin.pth")
    return folder


def made(folder: Path) -> nn.Module:
    from torchthin.io.factory import build_model

    return build_model(f"{folder / 'net.py'}:make")


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(sound: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = CASES[case]
    file = torch.load(sound / "thin.pth", weights_only=True)
    change(file["torchthin"]["recipe"], file)
    torch.save(file, tmp_path / "bad.pth")
    model = made(sound)
    before, expected = copy.deepcopy(vars(model)), model(X)
    with pytest.raises(CheckpointError, match=message) as raised:
        torchthin.load(model, tmp_path / "bad.pth")
    assert "\n" not in str(raised.value)
    assert vars(model).keys() == before.keys() and torch.equal(model(X), expected)
    factory = ("--model-factory", f"{sound / 'net.py'}:make", "--checkpoint", str(tmp_path / "bad.pth"))
    assert main(["inspect", *factory, "--input-shape", "1,3,8,8"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sizes_of_the_class_and_in_tuples_may_shrink(sound: Path, tmp_path: Path) -> None:
    file = torch.load(sound / "thin.pth", weights_only=True)
    attribute("", heads=2, sizes=[4, 4])(file["torchthin"]["recipe"], file)
    torch.save(file, tmp_path / "good.pth")
    model: Any = torchthin.load(made(sound), tmp_path / "good.pth")
    assert (model.heads, model.sizes, model[0].out_channels) == (2, (4, 4), 4)


def test_shared_lists_of_a_file_stay_shared() -> None:
    indices = list(range(1000))
    keep = {f"{number}.weight": {"0": indices} for number in range(100)}
    shapes = {name: [2000] for name in keep}
    recipe = torchthin.Recipe.from_dict(
        {"version": 1, "shapes": shapes, "keep": keep, "attributes": {}, "added": {}}
    )
    assert len({id(axes[0]) for axes in recipe.keep.values()}) == 1
    assert len({id(axes["0"]) for axes in recipe.to_dict()["keep"].values()}) == 1
