"""torchthin chip: its table, its exit codes, as a real process."""

import json
from typing import Any

import pytest
import torch
from workplace import Outcome, Workplace

from torchthin.cli.main import main

MODELS = """
from torch import nn

def small():
    print("building")
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

def odd():
    return nn.Sequential(nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3, stride=2))

def deep():
    return nn.Sequential(nn.Conv2d(3, 500, 1), nn.Conv2d(500, 500, 3))
"""
SHAPE = ("--input-shape", "1,3,16,16")
CHIP = ("--chip", "MAX78000")


@pytest.fixture
def models(place: Workplace) -> Workplace:
    (place.path / "models.py").write_text(MODELS)
    return place


def run(place: Workplace, *arguments: str) -> Outcome:
    return place.run("chip", *arguments, main=main)


def test_the_pose_student(models: Workplace) -> None:
    outcome = run(models, "pose_demo.student:pose_student", *CHIP, "--input-shape", "1,3,128,128")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[1] for line in lines[2:17]][:3] == ["conv1", "conv2", "conv3"]
    assert "| conv8     | conv2d | 96 -> 96 |      2 |         48 |   192 |" in outcome.out
    assert "deepest processor 729 of 768 (94.9 %)" in outcome.out
    assert "Cycles: 745,665, 14.91 ms at 50 MHz, without loading and unloading." in lines
    assert lines[-1] == "Fits MAX78000."


def test_json_and_other_bits(models: Workplace) -> None:
    asked = ("--chip", "max78002", *SHAPE, "--weight-bits", "4", "--json")
    outcome = models.run("chip", "models.py:small", *asked, main=main)
    assert outcome.code == 0
    assert outcome.err == "building\n"
    facts = json.loads(outcome.out)
    assert facts["chip"] == "MAX78002"
    assert facts["fits"] is True
    assert facts["cycles_exact"] is False
    assert [row["kernel_words"] for row in facts["layers"]] == [4, 1]
    assert facts["cycles"] == 1 + sum(row["cycles"] for row in facts["layers"])


def test_a_model_that_does_not_fit_exits_with_3(models: Workplace) -> None:
    outcome = models.run("chip", "--model-factory", "models.py:odd", *CHIP, *SHAPE, main=main)
    assert outcome.code == 3
    assert outcome.err == (
        "error: The model does not fit MAX78000. 0: kernel 5x5; allowed is 1x1 or 3x3. And 1 more.\n"
    )
    assert "1: stride 2x2; it must be 1" in outcome.out
    deep = models.run("chip", "models.py:deep", *CHIP, *SHAPE, "--json", main=main)
    assert deep.code == 3
    assert json.loads(deep.out)["fits"] is False
    assert "kernels of 4,096 words" in deep.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHIP, *SHAPE), "A model factory is needed"),
        (("models.py:small", *SHAPE), "A chip is needed. Give --chip, one of MAX78000, MAX78002"),
        (("models.py:small", *CHIP), "Example inputs are needed"),
        (("models.py:small", "--chip", "MAX7800", *SHAPE), "Did you mean 'MAX78002' or 'MAX78000'?"),
        (("models.py:small", "--model-factory", "models.py:odd", *CHIP, *SHAPE), "must be given once"),
        (("models.py:none", *CHIP, *SHAPE), "models.py has no 'none'"),
        (("models.py:small", *CHIP, "--input-shape", "1,5,8,8"), "does not run on the example_inputs"),
        (("models.py:small", *CHIP, "--input-shape", "1,3"), "does not run on the example_inputs"),
        (("models.py:small", *CHIP, *SHAPE, "--weight-bits", "3"), "must be 1, 2, 4 or 8"),
        (("models.py:small", *CHIP, *SHAPE, "--weight-bits", "auto"), "needs --target-kernel-words"),
        (
            ("models.py:small", *CHIP, *SHAPE, "--target-kernel-words", "9"),
            "goes with --weight-bits auto here",
        ),
        (
            ("models.py:small", *CHIP, *SHAPE, "--weight-bits", "auto", "--target-kernel-words", "0.5x"),
            "The --weight-bits auto needs --data",
        ),
        (("models.py:small", *CHIP, *SHAPE, "--weight-bit", "4"), "Did you mean '--weight-bits'"),
        (("models.py:small", *CHIP, *SHAPE, "--checkpoint", "none.pth"), "does not exist"),
    ],
)
def test_bad_input(models: Workplace, arguments: Any, message: str) -> None:
    models.assert_refused(message, *arguments, run=lambda *given: models.run("chip", *given, main=main))


PRUNE = ("prune", "--model-factory", "models.py:small", *SHAPE, "--save-to", "small.pth")


def test_pruning_for_a_chip(models: Workplace) -> None:
    outcome = models.run(*PRUNE, *CHIP, "--target-cycles", "0.8x", "--thin", main=main)
    assert (outcome.code, outcome.err) == (0, "")
    assert "MAX78000, asked at most 0.8x cycles; the result fits." in outcome.out
    assert "a uniform cut of" in outcome.out
    saved = torch.load(models.path / "small.pth", weights_only=True)
    assert saved["torchthin"]["report"]["chip"]["after"]["fits"] is True
    assert saved["state_dict"]["0.weight"].shape[0] == 4
    assert saved["target_sparsity"] == 0.5


def test_a_target_that_is_missed_exits_with_3_and_writes_nothing(models: Workplace) -> None:
    outcome = models.run(*PRUNE, *CHIP, "--target-cycles", "10", main=main)
    assert outcome.code == 3
    assert outcome.err.startswith("error: The target cannot be reached on MAX78000: asked at most 10 cycles")
    assert not (models.path / "small.pth").exists()


def test_a_sparsity_beside_the_chips_targets(models: Workplace) -> None:
    asked = ("--target-cycles", "0.9x", "--target-sparsity", "0.5", "--thin", "--json")
    outcome = models.run(*PRUNE, *CHIP, *asked, main=main)
    assert outcome.code == 0, outcome.err
    chip = json.loads(outcome.out)["chip"]
    assert (chip["channels"], chip["channels_gone"], chip["sparsity_asked"]) == (8, 4, 0.5)
    assert chip["asked"] == "at most 0.9x cycles, at least 50 % of the channels removed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHIP, "--fit", "--target-sparsity", "1.5"), "must be in [0, 1)"),
        (
            (*CHIP, "--target-sparsity", "0.5"),
            "The chip (--chip) needs a target: --target-cycles, --target-kernel-words or --fit.",
        ),
        (CHIP, "The chip (--chip) needs a target: --target-cycles, --target-kernel-words or --fit."),
        (("--fit",), "The option --fit does not go with --method agp-structured"),
        (
            (*CHIP, "--method", "agp-unstructured"),
            "The option --chip does not go with --method agp-unstructured",
        ),
        ((*CHIP, "--fit", "--scope", "global"), "The option --scope does not go with a chip"),
        ((*CHIP, "--target-cycles", "fast"), "must be a share such as 0.6x"),
    ],
)
def test_bad_chip_targets(models: Workplace, arguments: Any, message: str) -> None:
    models.assert_refused(message, *arguments, run=lambda *given: models.run(*PRUNE, *given, main=main))


def test_what_the_model_is_worth_in_whole_numbers(models: Workplace) -> None:
    outcome = models.run(
        "chip", "models.py:small", *CHIP, *SHAPE, "--data", "noise", "--data-limit", "4", "--json", main=main
    )
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)["accuracy"]
    (row,) = facts["rows"]
    assert (facts["samples"], row["model"], row["floating"], row["quantised"]) == (4, "model", 0, None)
    assert row["integer"] > 0
    (models.path / "scored.py").write_text(
        "def score(model):\n    return sum(1 for _ in model.parameters())\n"
    )
    outcome = models.run("chip", "models.py:small", *CHIP, *SHAPE, "--metric", "scored.py:score", main=main)
    assert "| model | scored.py:score |     4 |                  - |              4 |" in outcome.out


def test_bits_are_chosen_layer_by_layer(models: Workplace) -> None:
    asked = ("--weight-bits", "auto", "--target-kernel-words", "0.7x", "--data", "noise", "--data-limit", "4")
    outcome = models.run("chip", "models.py:small", *CHIP, *SHAPE, *asked, main=main)
    assert outcome.code == 0, outcome.err
    assert "Note: Bits of weights: 0 4, the others 8; deepest processor 9 -> 5 words" in outcome.out


def test_a_cut_for_a_chip_reports_whole_numbers_before_and_after(models: Workplace) -> None:
    asked = ("--target-cycles", "0.8x", "--thin", "--data", "noise", "--data-limit", "4", "--json")
    outcome = models.run(*PRUNE, *CHIP, *asked, main=main)
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)["chip_accuracy"]["rows"]
    assert [row["model"] for row in rows] == ["full size", "thinned"]
    assert rows[0]["floating"] == 0 < rows[0]["integer"] < rows[1]["floating"]


def test_a_metric_scores_the_cut_before_and_after(models: Workplace) -> None:
    (models.path / "scored.py").write_text(
        "def score(model):\n    return sum(value.numel() for value in model.state_dict().values())\n"
    )
    asked = ("--target-cycles", "0.8x", "--thin", "--metric", "scored.py:score", "--json")
    outcome = models.run(*PRUNE, *CHIP, *asked, main=main)
    assert outcome.code == 0, outcome.err
    rows = json.loads(outcome.out)["chip_accuracy"]["rows"]
    assert [(row["model"], row["measure"]) for row in rows] == [
        ("full size", "scored.py:score"),
        ("thinned", "scored.py:score"),
    ]
    assert rows[0]["floating"] == rows[0]["integer"] > rows[1]["floating"] == rows[1]["integer"]


@pytest.mark.parametrize(
    "more", [(), ("--synthesis-to", "chip", "--train", "a.py:b", "--save-to", "thin.pth")]
)
def test_a_metric_without_a_chip_or_in_training_is_refused(models: Workplace, more: tuple[str, ...]) -> None:
    asked = ("--target-sparsity", "0.5", "--thin", "--metric", "scored.py:score", *more)
    message = "--metric scores what a chip computes"
    models.assert_refused(message, *asked, run=lambda *given: models.run(*PRUNE, *given, main=main))
