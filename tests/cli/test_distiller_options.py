"""torchthin prune with what people bring along from Distiller."""

import sys
from pathlib import Path

import pytest
import torch
from workplace import Workplace

import torchthin
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model

MODEL = ("--model-factory", "net.py:net", "--checkpoint", "best.pth")
SCHEDULE = """
version: 1
pruners:
  first: {class: L1RankedStructureParameterPruner_AGP, initial_sparsity: 0.05, final_sparsity: 0.25,
          group_type: Filters, weights: [conv1.weight]}
  second: {class: AutomatedGradualPruner, initial_sparsity: 0.05, final_sparsity: 0.5, weights: [fc.weight]}
lr_schedulers: {lr: {class: MultiStepLR, milestones: [10], gamma: 0.5}}
policies:
- {pruner: {instance_name: first}, starting_epoch: 0, ending_epoch: 10, frequency: 2}
- {pruner: {instance_name: second}, starting_epoch: 0, ending_epoch: 10, frequency: 2}
"""


@pytest.fixture(autouse=True)
def schedule(place: Workplace) -> None:
    Path("schedule.yaml").write_text(SCHEDULE)


def test_a_pruner_of_a_schedule(place: Workplace) -> None:
    chosen = ("--distiller-schedule", "schedule.yaml", "--pruner", "first")
    outcome = place.run(*MODEL, *chosen, "--save-to", "p.pth")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Note: Distiller schedule: lr_schedulers: ignored; it holds lr." in outcome.out
    assert "pruners not in this run: second." in outcome.out
    masks = read_checkpoint("p.pth").masks
    model = torchthin.load(build_model("net.py:net"), "best.pth")
    expected = torchthin.prune(model, None, 0.25, include=["conv1.weight"], thin=False)
    assert masks.keys() == {"conv1.weight"}
    assert torch.equal(masks["conv1.weight"], expected.masks["conv1.weight"])


def test_flags_win_over_the_schedule(place: Workplace) -> None:
    chosen = ("--distiller-schedule", "schedule.yaml", "--pruner", "first", "--target-sparsity", "0.5")
    assert place.run(*MODEL, *chosen, "--save-to", "p.pth").code == 0
    assert torch.load("p.pth", weights_only=True)["target_sparsity"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--distiller-schedule", "schedule.yaml"), "one run takes one: first, second"),
        (("--distiller-schedule", "none.yaml"), "cannot be read: No such file"),
        (("--pruner", "first"), "Give the file with --distiller-schedule"),
        (("--config", "schedule.yaml"), "Give it as --distiller-schedule schedule.yaml"),
        (("--distiller-schedule", "net.py"), "must be plain YAML"),
    ],
)
def test_bad_schedules(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, *MODEL, *arguments, "--save-to", "p.pth")


def test_the_backend_that_is_not_there(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distiller", None)
    monkeypatch.delitem(sys.modules, "distiller.pruning", raising=False)
    place.assert_refused(
        "needs Distiller, which cannot be imported here",
        *(*MODEL, "--backend", "distiller", "--save-to", "p.pth"),
    )
