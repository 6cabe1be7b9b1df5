"""``--ratio``, ``--kinds`` and ``--even`` of ``torchthin prune``."""

import json
from pathlib import Path

import pytest
import torch
from workplace import Workplace

from torchthin.cli.main import main

DECODER = (Path(__file__).parents[1] / "nets" / "decoder.py").read_text()
MODEL = ("prune", "--model-factory", "models.py:decoder", "--input-shape", "2,7:int64", "--thin")


@pytest.fixture
def models(place: Workplace) -> Workplace:
    Path("models.py").write_text(DECODER)
    return place


def test_shares_by_kind_are_reached_and_saved(models: Workplace) -> None:
    more = ("--ratio", "mlp=0.3", "heads=0.25", "--even", "--save-to", "thin.pth", "--json")
    outcome = models.run(*MODEL, *more, main=main)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["by_kind"] == {"mlp": 0.3, "heads": 0.25}
    saved = torch.load("thin.pth", weights_only=True)["state_dict"]
    assert saved["layers.0.attention.q.weight"].shape == (24, 32)
    assert saved["layers.1.mlp.up.weight"].shape == (28, 32)


def test_a_configuration_file_says_the_same(models: Workplace) -> None:
    Path("asked.json").write_text(json.dumps({"ratio": ["heads=0.5"]}))
    outcome = models.run(*MODEL, "--config", "asked.json", "--json", main=main)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["by_kind"] == {"heads": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--ratio", "mlp"),
            "The ratios of Ratio (--ratio) must be kinds or patterns with shares in [0, 1), such as mlp=0.3. Got 'mlp'.",
        ),
        (("--ratio", "1.5"), "such as mlp=0.3; a share of all channels is --target-sparsity. Got '1.5'."),
        (
            ("--ratio", "channels=0.5"),
            "The model has no channels that can be removed. It has hidden (1 group)",
        ),
        (("--ratio", "specialists=0.5"), "'specialists' goes to nothing"),
        (("--ratio", "experts=0.5"), "or the modules of a list. The model has hidden (1 group)"),
        (("--ratio", "mlp=0.5", "--target-sparsity", "0.5"), "--target-sparsity does not go with --ratio"),
        (("--target-params", "0.9x", "--kinds", "states"), "The model has no states that can be removed"),
        (
            ("--method", "agp-unstructured", "--ratio", "mlp=0.5"),
            "--ratio does not go with --method agp-unstructured",
        ),
    ],
)
def test_what_the_model_lacks_is_refused(models: Workplace, arguments: tuple[str, ...], message: str) -> None:
    models.assert_refused(
        message, *MODEL, *arguments, "--save-to", "thin.pth", run=lambda *given: models.run(*given, main=main)
    )
