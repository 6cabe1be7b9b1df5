"""``torchthin prune --train``: the user's function trains between the steps, and an interrupted run continues."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch
from workplace import NET, Workplace, trained_state

import torchthin
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model

TRAINING = """
import os, signal
import torch
from torch import nn

def make(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

def train(model, step, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 0.01)
    with open("calls.txt", "a") as file:
        print(step, int((model.conv1.weight.flatten(1) == 0).all(1).sum()), file=file)
    model.train()
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8)  # from the global generator, whose state is saved too
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.randint(2, (4,))).backward()
        optimizer.step()
        assert not model.conv1.weight[(model.conv1.weight.flatten(1) == 0).all(1)].any()

def killed(model, step, optimizer=None):
    train(model, step, optimizer)
    if step == 3 and not os.path.exists("spared"):
        open("spared", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

def fails(model, step, optimizer=None):
    if step == 3 and not os.path.exists("repaired"):
        raise RuntimeError("the disk of the data\\nis full")
    train(model, step, optimizer)

def no_optimizer(model): return model
"""
FLAGS = [
    "--model-factory",
    "net.py:net",
    "--checkpoint",
    "best.pth",
    "--input-shape",
    "2,3,8,8",
    "--agp-steps",
    "4",
]
EXTRA = {
    "optimizer, thinned": ["--optimizer", "training.py:make", "--thin"],
    "ranked from data": ["--criterion", "taylor", "--data", "inputs.pt"],
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "training.py").write_text(TRAINING)
    state = trained_state(tmp_path)
    state["bn.running_var"].abs_()
    torch.save(state, tmp_path / "best.pth")
    torch.save(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(2)), tmp_path / "inputs.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Workplace(tmp_path, capsys)


def given(function: str, out: str, *more: str) -> list[str]:
    return [*FLAGS, "--train", f"training.py:{function}", "--save-to", out, *more]


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_the_function_is_called_after_every_step_with_masks_held(place: Workplace, extra: list[str]) -> None:
    outcome = place.run(*given("train", "out.pth", *extra))
    assert outcome.code == 0, outcome.err
    calls = (place.path / "calls.txt").read_text().split("\n")
    assert calls == ["1 2", "2 3", "3 3", "4 4", ""]  # floor(8 * agp) filters are zero
    assert not (place.path / "out.pth.state").exists()
    assert int((~read_checkpoint("out.pth").masks["conv1.weight"].flatten(1).any(1)).sum()) == 4
    model = torchthin.load(build_model("net.py:net"), "out.pth")
    assert model.conv1.out_channels == (4 if "--thin" in extra else 8)
    before = torch.load("best.pth", weights_only=True)
    assert not torch.equal(model.fc.weight, before["fc.weight"])  # it was trained


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_a_killed_run_goes_on_and_gives_the_same_file(place: Workplace, extra: list[str]) -> None:
    assert place.run(*given("train", "whole.pth", *extra)).code == 0
    # The name of the function is part of the run; the same name, killed the first time:
    (place.path / "training.py").write_text(
        TRAINING.replace("def train(", "def _train(")
        .replace("    train(model", "    _train(model")
        .replace("def killed(", "def train(")
    )
    first = place.process(*given("train", "out.pth", *extra))
    assert first.code == -signal.SIGKILL
    assert not (place.path / "out.pth").exists()
    refused = place.run(*given("train", "out.pth", *extra))
    assert (refused.code, "--resume" in refused.err) == (2, True)
    second = place.run(*given("train", "out.pth", "--resume", *extra))
    assert second.code == 0, second.err
    assert "Continuing after step 2 of 4" in second.out
    assert (place.path / "out.pth").read_bytes() == (place.path / "whole.pth").read_bytes()
    assert not (place.path / "out.pth.state").exists()


def test_a_criterion_of_data_needs_some(place: Workplace) -> None:
    flags = given("train", "out.pth", "--criterion", "taylor")
    place.assert_refused("criterion 'taylor' needs data", *flags)


def test_a_function_that_raises_leaves_its_state(place: Workplace) -> None:
    outcome = place.run(*given("fails", "out.pth"))
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "training.py:fails raised RuntimeError: the disk of the data is full at step 3 of 4" in outcome.err
    assert "out.pth.state; continue from it with --resume" in outcome.err
    assert not (place.path / "out.pth").exists()
    (place.path / "repaired").touch()
    again = place.run(*given("fails", "out.pth", "--resume"))
    assert again.code == 0, again.err
    assert (place.path / "calls.txt").read_text().split()[::2] == ["1", "2", "3", "4"]


def test_the_masks_hold_without_an_optimizer_of_torch(place: Workplace) -> None:
    source = "def push(model, step):\n    for p in model.parameters():\n        p.data.add_(0.01)\n"
    (place.path / "push.py").write_text(source)
    flags = [*FLAGS, "--train", "push.py:push", "--save-to", "out.pth"]
    assert place.run(*flags).code == 0
    saved = read_checkpoint("out.pth")
    for name, mask in saved.masks.items():
        assert not saved.state_dict[name][~mask].any()


REFUSED = {
    "train without a place": (["--train", "training.py:train"], "--train needs --save-to"),
    "resume without train": (["--resume", "--save-to", "o.pth"], "--resume goes with --train"),
    "optimizer without train": (["--optimizer", "training.py:make"], "--optimizer goes with --train"),
    "nothing to resume": (["--train", "training.py:train", "--save-to", "o.pth", "--resume"], "No saved state at o.pth.state"),
    "no such function": (["--train", "training.py:trian", "--save-to", "o.pth"], "Did you mean 'train'"),
    "no such module": (["--train", "nowhere:train", "--save-to", "o.pth"], "training function nowhere:train cannot be"),
    "no optimizer": (
        ["--train", "training.py:train", "--optimizer", "training.py:no_optimizer", "--save-to", "o.pth"],
        "must return a torch.optim.Optimizer. It returned Net",
    ),
    "compat": (["--train", "training.py:train", "--save-to", "o.pth", "--compat", "distiller"], "--train needs a target"),
    "budget": (["--train", "training.py:train", "--save-to", "o.pth", "--target-macs", "0.5x"], "--train needs a target"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused(place: Workplace, flags: list[str], message: str) -> None:
    place.assert_refused(message, *FLAGS, *flags)


def test_a_state_of_another_run_is_refused(place: Workplace) -> None:
    assert place.run(*given("fails", "out.pth")).code == 1
    place.assert_refused("another agp_steps", *given("fails", "out.pth", "--resume", "--agp-steps", "5"))
    place.assert_refused("another train: 'training.py:fails'", *given("train", "out.pth", "--resume"))
    (place.path / "out.pth.state").write_bytes(b"not a state")
    place.assert_refused("cannot be read", *given("fails", "out.pth", "--resume"))
    for content, message in (
        (b"", "is empty. Remove it to start over."),
        (
            (place.path / "best.pth").read_bytes()[:3000],
            "is damaged: it is cut short. Remove it to start over.",
        ),
        ((place.path / "best.pth").read_bytes(), "must hold settings, pruner, model, optimizer, random."),
    ):
        (place.path / "out.pth.state").write_bytes(content)
        place.assert_refused(message, *given("fails", "out.pth", "--resume"))


def test_a_state_of_another_model_is_refused(place: Workplace) -> None:
    assert place.run(*given("fails", "out.pth")).code == 1
    state = torch.load("out.pth.state", weights_only=True)
    torch.save({**state, "model": {}}, "out.pth.state")
    place.assert_refused("does not fit this model", *given("fails", "out.pth", "--resume"))


def test_training_that_diverges_is_told_at_once(place: Workplace) -> None:
    source = "def burn(model, step):\n    if step == 2:\n        model.fc.weight.data[0, 1] = float('nan')\n"
    (place.path / "burn.py").write_text(source)
    outcome = place.run(*FLAGS, "--train", "burn.py:burn", "--save-to", "out.pth")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome
    assert "burn.py:burn left NaN or infinite numbers in fc.weight at step 2 of 4." in outcome.err
    assert "The state after step 1 is in out.pth.state" in outcome.err
    (place.path / "burn.py").write_text(source.replace("nan", "0.5"))
    again = place.run(*FLAGS, "--train", "burn.py:burn", "--save-to", "out.pth", "--resume")
    assert again.code == 0, again.err
    assert "Continuing after step 1 of 4." in again.out


def test_exact_holds_with_training_too(place: Workplace) -> None:
    net = "nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))"
    (place.path / "padded.py").write_text(f"from torch import nn\n\ndef net():\n    return {net}\n")
    (place.path / "idle.py").write_text("def train(model, step):\n    pass\n")
    model = ("--model-factory", "padded.py:net", "--input-shape", "2,3,8,8")
    for flags, exact in ((), False), (("--exact",), True):
        outcome = place.run(*model, "--train", "idle.py:train", "--thin", "--save-to", f"{exact}.pth", *flags)
        assert outcome.code == 0, outcome.err
        entry = read_checkpoint(f"{exact}.pth").torchthin
        assert entry is not None
        assert entry["report"]["proof"]["exact"] == exact


def test_nothing_is_compared_with_training_either_where_that_is_asked(place: Workplace) -> None:
    (place.path / "idle.py").write_text("def train(model, step):\n    pass\n")
    model = ("--model-factory", "net.py:net", "--input-shape", "2,3,8,8", "--train", "idle.py:train")
    outcome = place.run(*model, "--thin", "--save-to", "off.pth", "--proof", "off")
    assert outcome.code == 0, outcome.err
    assert 'Proof: not proved (proof="off")' in outcome.out
    entry = read_checkpoint("off.pth").torchthin
    assert entry is not None
    assert (entry["report"]["proof"], entry["config"]["proof"]) == (None, "off")
