"""load: thinned checkpoints into full-size and thinned instances, files of both kinds, and thinning twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nets.small import Biasless, Plain, Tied, image, lively
from snapshot import Snapshot
from torch import nn

import torchthin
from torchthin.cli.main import main
from torchthin.errors import CheckpointError, InputError
from torchthin.io.checkpoints import read_checkpoint

FACTORY = """
import sys
sys.path.insert(0, {folder!r})
from nets.small import Plain, lively
def plain(): return lively(Plain()).eval()
"""
SHAPE = ("--input-shape", "2,3,8,8")


@pytest.fixture
def prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory.py").write_text(FACTORY.format(folder=str(Path(__file__).parents[1])))

    def run(*arguments: str) -> None:
        assert main(["prune", "--model-factory", "factory.py:plain", *SHAPE, "--quiet", *arguments]) == 0

    return run


def full() -> nn.Module:
    return lively(Plain(), seed=9).eval()


@pytest.mark.parametrize("file", ["thin.pth", "thin.safetensors"])
def test_into_a_full_size_and_into_a_thinned_instance(prune: Callable[..., None], file: str) -> None:
    prune("--thin", "--save-to", file)
    expected = torchthin.prune(lively(Plain()).eval(), image()).model
    model = torchthin.load(full(), file)
    assert isinstance(model, Plain)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (4, 3)
    torch.testing.assert_close(model(image()), expected(image()))
    again = torchthin.load(model, file)
    assert again is model
    torch.testing.assert_close(model(image()), expected(image()))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("file", ["a.pth", "a.safetensors"])
def test_saved_from_python_as_from_the_command_line(
    prune: Callable[..., None], file: str, thin: bool
) -> None:
    prune("--method", "l1-structured", *(["--thin"] if thin else []), "--save-to", f"cli_{file}")
    result = torchthin.prune(lively(Plain()).eval(), image(), thin=thin)
    result.save(file)
    mine, theirs = read_checkpoint(file), read_checkpoint(f"cli_{file}")
    assert {name: t.tolist() for name, t in mine.state_dict.items()} == {
        name: t.tolist() for name, t in theirs.state_dict.items()
    }
    assert mine.torchthin["config"] == theirs.torchthin["config"]
    assert mine.torchthin.get("recipe") == theirs.torchthin.get("recipe")
    assert ("recipe" in mine.torchthin) == thin
    torch.testing.assert_close(torchthin.load(full(), file)(image()), result.model(image()))


def test_saving_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = torchthin.prune(lively(Plain()).eval(), image())
    file = tmp_path / "a.pth"
    result.save(file)
    before = file.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        result.save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_text_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"is not of the form that torch\.save writes"):
        torchthin.load(full(), tmp_path / "a.pth")


@pytest.mark.parametrize(
    "files", [("a.pth", "b.pth"), ("a.safetensors", "b.safetensors"), ("a.pth", "b.safetensors")]
)
def test_thinning_twice_composes(prune: Callable[..., None], files: tuple[str, str]) -> None:
    first, second = files
    prune("--thin", "--target-sparsity", "0.25", "--save-to", first)
    prune("--thin", "--target-sparsity", "0.5", "--checkpoint", first, "--save-to", second)
    model = torchthin.load(full(), second)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (3, 3)
    once = torchthin.prune(lively(Plain()).eval(), image(), 0.25)
    twice = torchthin.prune(once.model, image(), 0.5)
    torch.testing.assert_close(model(image()), twice.model(image()))
    assert once.recipe is not None and twice.recipe is not None
    entry = read_checkpoint(second).torchthin
    assert entry is not None
    assert torchthin.Recipe.from_dict(entry["recipe"]) == once.recipe.then(twice.recipe)


def test_masking_a_thinned_checkpoint_keeps_it_loadable(prune: Callable[..., None]) -> None:
    prune("--thin", "--save-to", "a.pth")
    prune("--checkpoint", "a.pth", "--save-to", "b.pth")
    model = torchthin.load(full(), "b.pth")
    assert model.conv1.out_channels == 4
    assert int((model.conv1.weight.flatten(1) == 0).all(1).sum()) == 2


def test_masked_and_foreign_checkpoints_load_as_they_are(prune: Callable[..., None]) -> None:
    prune("--save-to", "masked.pth")
    model = torchthin.load(full(), "masked.pth")
    assert model.conv1.out_channels == 8
    assert int((model.conv1.weight.flatten(1) == 0).all(1).sum()) == 4
    torch.save(lively(Plain(), seed=3).state_dict(), "plain.pth")
    torchthin.load(model, "plain.pth")
    assert torch.equal(model.conv1.weight, lively(Plain(), seed=3).conv1.weight)


class Wider(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(8, 10, 1)
        self.fc = nn.Linear(10, 4)


@pytest.mark.parametrize(
    ("make", "differs"),
    [
        (Biasless, r"(conv1\.bias|bn\.)"),
        (Tied, r"conv1"),
        (Wider, r"conv2\.weight.*\(6, 8, 1, 1\).*\(10, 8, 1, 1\)"),
    ],
)
def test_the_wrong_class_says_what_differs(
    prune: Callable[..., None], make: Callable[[], nn.Module], differs: str
) -> None:
    prune("--thin", "--save-to", "thin.pth")
    model = lively(make())
    before = Snapshot(model)
    with pytest.raises(CheckpointError, match=differs) as caught:
        torchthin.load(model, "thin.pth")
    assert "\n" not in str(caught.value)
    assert "thin.pth" in str(caught.value)
    assert before.changes() == []


class Renamed(Plain):
    """The same tensors and one more, which no recipe names."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.ones(3))


def test_a_class_with_one_more_parameter_is_left_as_it_was(prune: Callable[..., None]) -> None:
    prune("--thin", "--save-to", "thin.pth")
    model = lively(Renamed())
    before = Snapshot(model)
    with pytest.raises(CheckpointError, match="extra"):
        torchthin.load(model, "thin.pth")
    assert before.changes() == []


def test_a_damaged_recipe_is_refused(prune: Callable[..., None]) -> None:
    prune("--thin", "--save-to", "thin.pth")
    content = torch.load("thin.pth", weights_only=True)
    content["torchthin"]["recipe"]["keep"]["conv1.weight"]["0"] = [0, 1, 2, 900]
    torch.save(content, "bad.pth")
    model = full()
    before = Snapshot(model)
    with pytest.raises(CheckpointError, match=r"conv1\.weight"):
        torchthin.load(model, "bad.pth")
    assert before.changes() == []


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="The model of load must be"):
        torchthin.load("model", "thin.pth")  # type: ignore[type-var]
