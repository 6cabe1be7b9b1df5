"""``torchthin sensitivity``, as a user runs it."""

import json
import signal

import numpy as np
import pytest
from workplace import Workplace

from torchthin.cli.main import main

MODEL = ("--model-factory", "net.py:net", "--input-shape", "1,3,8,8")
METRIC = """
import time
from pathlib import Path

import torch

X = torch.ones(2, 3, 8, 8)

def score(model):
    return -float(model(X).abs().mean())

def stuck(model):  # from the fourth call on, until it is freed
    with open("calls", "a") as calls:
        calls.write(".")
    while Path("calls").stat().st_size > 3 and not Path("free").exists():
        time.sleep(0.05)
    return score(model)

def raises(model):
    raise OSError("no data here")
"""


@pytest.fixture(autouse=True)
def files(place: Workplace) -> None:
    (place.path / "judge.py").write_text(METRIC)
    np.save(place.path / "inputs.npy", np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32))


def test_a_scan_feeds_an_allocation(place: Workplace) -> None:
    scan = ("sensitivity", *MODEL, "--data", "inputs.npy", "--ratios", "0.25", "0.5", "0.75")
    outcome = place.run(*scan, "--save-to", "scan.json", "--cache", "scan.jsonl", main=main)
    assert outcome.code == 0, outcome
    assert "conv1.weight |        8 |" in outcome.out
    table = json.loads((place.path / "scan.json").read_text())
    again = place.run(*scan, "--json", "--cache", "scan.jsonl", "--workers", "2", main=main)
    assert json.loads(again.out) == table
    pruned = place.run(
        "prune", *MODEL, "--thin", "--target-macs", "0.6x", "--allocation", "scan.json", main=main
    )
    assert pruned.code == 0, pruned
    assert "Budget: at most" in pruned.out


def test_data_of_the_user_reach_criteria(place: Workplace) -> None:
    outcome = place.run("prune", *MODEL, "--criterion", "taylor", "--data", "inputs.npy", "--json", main=main)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["pruned_channels"] > 0


def test_a_killed_scan_goes_on(place: Workplace) -> None:
    command = ("sensitivity", *MODEL, "--metric", "judge.py:stuck", "--cache", "scan.jsonl", "--json")
    cache = place.path / "scan.jsonl"
    run = place.started(*command, main=main)
    run.wait_for(lambda: cache.exists() and cache.read_bytes().count(b"\n") >= 3)
    assert run.stop(signal.SIGKILL).code == -signal.SIGKILL
    known = cache.read_bytes()
    assert known.count(b"\n") == 3
    (place.path / "free").touch()
    quick = place.run(*command, main=main)
    assert quick.code == 0, quick
    assert cache.read_bytes().startswith(known[: known.rfind(b"\n") + 1])
    losses = [loss for curve in json.loads(quick.out)["groups"] for loss in curve["losses"]]
    assert cache.read_bytes().count(b"\n") == 1 + len(losses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "judge.py:raises"), "The metric fails on the model: OSError: no data here."),
        (("--metric", "judge.py:scor"), "Did you mean 'score'"),
        (("--metric", "score"), "The metric must be package.module:function or path/to/file.py:function."),
        (("--data", "none.npy"), "none.npy"),
        (("--cache", "judge.py"), "does not hold results"),
        (("--save-to", "net.py"), "The file of --save-to must not be the model's own."),
        (("--save-to", "a.json", "--cache", "./a.json"), "The files of --save-to and --cache must differ."),
        (("--ratios", "2"), "The ratios of sensitivity must be numbers between 0 and 1."),
        (("--save-to", "."), "."),
    ],
)
def test_bad_input_is_one_line(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, "sensitivity", *MODEL, *arguments, run=lambda *a: place.run(*a, main=main))
