"""Which weights a run prunes by default, as its flags and example inputs say, and ``--list-weights`` beforehand."""

import json
from pathlib import Path

import pytest
from workplace import Outcome, Workplace

from torchthin.cli.main import main

MODELS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))

class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))

def transformer(): return Transformer()

def big_head():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 4)
    )

def small_head():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
"""
SHAPES = {"transformer": "1,5,6", "big_head": "1,3,8,8", "small_head": "1,3,8,8"}
NOTES = {
    "transformer": "Linear layers are pruned too, since there are no convolutions; name weights to choose others.",
    "big_head": "Linear layers are pruned too, since convolutions hold 1 % of the parameters; name weights to choose others.",
}


@pytest.fixture
def models(place: Workplace) -> Workplace:
    Path("models.py").write_text(MODELS)
    return place


def run(place: Workplace, name: str, *more: str, sized: bool = True) -> Outcome:
    shape = ("--input-shape", SHAPES[name]) if sized else ()
    return place.run("prune", "--model-factory", f"models.py:{name}", *shape, *more, main=main)


@pytest.mark.parametrize("name", NOTES)
def test_linear_layers_are_pruned_too_and_one_line_says_so(models: Workplace, name: str) -> None:
    outcome = run(models, name, "--thin")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(NOTES[name]) == 1
    facts = json.loads(run(models, name, "--thin", "--json").out)
    assert facts["thinned_parameters"] < 0.7 * facts["parameters"]
    pruned = {layer["name"] for layer in facts["layers"] if layer["pruned_channels"]}
    assert pruned & {"blocks.0.up.weight", "3.weight"}
    assert not pruned & {"head.weight", "5.weight"}  # the model's output


def test_convolutions_alone_where_they_hold_most(models: Workplace) -> None:
    outcome = run(models, "small_head", "--thin")
    assert outcome.code == 0, outcome.err
    assert "Linear layers" not in outcome.out
    assert json.loads(run(models, "small_head", "--list-weights", "--json").out)["weights"].keys() == {
        "0.weight",
        "2.weight",
    }


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--thin",),
        ("--keep", "*head*", "0"),
        ("--method", "agp-unstructured"),
        ("--method", "nm-unstructured"),
    ],
)
def test_the_list_of_weights_is_what_the_run_prunes(
    models: Workplace, name: str, flags: tuple[str, ...]
) -> None:
    listed = run(models, name, "--list-weights", "--json", *flags)
    done = run(models, name, "--json", *flags)
    assert listed.code == done.code, (listed, done)
    if done.code == 0:
        facts = json.loads(done.out)
        assert list(json.loads(listed.out)["weights"]) == [layer["name"] for layer in facts["layers"]]
        assert set(json.loads(listed.out)["notes"]) <= set(facts["notes"])


def test_without_example_inputs_a_transformer_says_what_to_give(models: Workplace) -> None:
    for more in ((), ("--list-weights",)):
        outcome = run(models, "transformer", *more, sized=False)
        assert outcome.code == 2
        assert (
            "it has no convolution weights; give example inputs, or name others with include (--weights)"
            in outcome.err
        )
