"""``--target-params``, ``--target-macs`` and ``--criterion`` of ``torchthin prune``."""

import json

import pytest
import torch
from nets.stepped import Stepped
from workplace import Workplace

from torchthin.cli.main import main
from torchthin.pruning import latency_plan

MODEL = ("prune", "--model-factory", "net.py:net", "--input-shape", "1,3,8,8")


def test_a_budget_is_reached_from_below_and_saved(place: Workplace) -> None:
    arguments = (*MODEL, "--thin", "--target-macs", "0.5x", "--target-params", "0.9x", "--criterion", "fpgm")
    outcome = place.run(*arguments, "--save-to", "thin.pth", "--json", main=main)
    assert outcome.code == 0, outcome
    facts = json.loads(outcome.out)
    assert [budget["name"] for budget in facts["budgets"]] == ["parameters", "macs"]
    assert all(budget["after"] <= budget["limit"] < budget["before"] for budget in facts["budgets"])
    assert facts["budgets"][1]["after"] == facts["thinned_macs"]
    saved = torch.load(place.path / "thin.pth", weights_only=True)["state_dict"]
    assert saved["conv1.weight"].shape[0] < 8
    outcome = place.run(*arguments, main=main)
    assert "Budget: at most" in outcome.out


def test_a_latency_is_a_budget(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*MODEL, "--thin", "--latency-cache", "times.json", "--criterion", "l2", "--json")
    monkeypatch.setattr(latency_plan, "CLOCK", Stepped(block=2))
    outcome = place.run(*arguments, "--target-latency", "0.6x", "--target-params", "0.9x", main=main)
    assert outcome.code == 0, outcome
    parameters, latency = json.loads(outcome.out)["budgets"]
    assert (parameters["name"], latency["name"], latency["unit"]) == ("parameters", "latency", "seconds")
    assert latency["after"] <= latency["limit"] < latency["before"] and latency["runs"] == 1
    assert (place.path / "times.json").exists()
    monkeypatch.setattr(latency_plan, "CLOCK", Stepped(lambda time, full: full, block=2))
    outcome = place.run(*arguments, "--target-latency", "0.6x", "--save-to", "thin.pth", main=main)
    assert outcome.code == 3 and not (place.path / "thin.pth").exists()
    (error,) = [line for line in outcome.err.splitlines() if not line.startswith("No --checkpoint")]
    assert error.startswith("error: The latency was missed: asked at most")


def test_what_is_kept_is_a_multiple(place: Workplace) -> None:
    arguments = (
        *MODEL,
        "--thin",
        "--target-sparsity",
        "0.7",
        "--round-to",
        "4",
        "--save-to",
        "thin.pth",
        "--json",
    )
    outcome = place.run(*arguments, main=main)
    assert outcome.code == 0, outcome
    saved = torch.load(place.path / "thin.pth", weights_only=True)["state_dict"]
    assert saved["conv1.weight"].shape[0] == 4  # without it 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--target-macs", "1.5x"),
            "The macs of Budget (--target-macs) must be a share such as 0.6x, up to 1x",
        ),
        (
            ("--target-latency", "1.5x"),
            "The latency of Budget (--target-latency) must be a share such as 0.6x, up to 1x, or a time such as 12ms",
        ),
        (("--latency-cache", "times.json"), "Give --target-latency as well."),
        (
            ("--target-latency", "0.9x", "--thin", "--latency-cache", "net.py"),
            "The file of layer times net.py cannot be used: Expecting value",
        ),
        (
            ("--target-params", "1"),
            "The budget cannot be reached: asked parameters of 1, the least is",
        ),
        (
            ("--round-to", "0"),
            "The round_to of Ratio (--round-to) must be a whole number of at least 1. Got 0.",
        ),
        (("--criterion", "fpmg"), "Did you mean 'fpgm'"),
        (("--criterion", "taylor"), "'taylor' needs data"),
        (
            ("--keep-at-least", "2", "--scope", "global"),
            "The at_least of Ratio (--keep-at-least) must be in [0, 1). Got 2.0.",
        ),
    ],
)
def test_bad_flags_are_one_line(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(
        message, *MODEL, *arguments, "--save-to", "out.pth", run=lambda *a: place.run(*a, main=main)
    )
