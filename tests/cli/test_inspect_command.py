"""torchthin inspect: what it shows, and its exit codes as a real process."""

import json
import re
import sys
from typing import Any

import pytest
import torch
from workplace import Outcome, Workplace

import torchthin
from torchthin.cli.main import main
from torchthin.io.factory import build_model

MODELS = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 1)
        self.spare = nn.Linear(5, 5)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        y = self.stem(x)
        return self.head(self.b(y + self.a(torch.relu(y))).mean((2, 3)))

class Stuck(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = torch.linalg.svdvals(self.conv(x).flatten(2))  # nothing is known of it
        return self.head(y[:, :, None, None])

class Moody(Residual):
    def forward(self, x):
        raise ValueError("not today")

def residual():
    print("building")
    return Residual()
def stuck(): return Stuck()
def single(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
def moody(): return Moody()
"""
SHAPE = ("--input-shape", "1,3,8,8")


@pytest.fixture
def models(place: Workplace) -> Workplace:
    (place.path / "models.py").write_text(MODELS)
    return place


def program(place: Workplace, name: str, *arguments: str) -> Outcome:
    return place.run("inspect", "--model-factory", f"models.py:{name}", *arguments, main=main)


def test_groups_members_and_sizes(models: Workplace) -> None:
    outcome = program(models, "residual", *SHAPE)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in outcome.out.splitlines() if "|" in line
    ]
    stem = next(row for row in rows if row[0] == "stem.weight")
    assert stem[1:3] == ["channels", "8"]
    assert stem[3] == "stem.weight, a.weight"
    assert {"stem.bias[0]", "a.weight[1]", "a.bias[0]", "b.weight[1]"} <= set(stem[4].split(", "))
    assert next(row for row in rows if row[0] == "b.weight")[1:5] == [
        "channels",
        "6",
        "b.weight",
        "b.bias[0], head.weight[1]",
    ]
    assert "2 groups of 14 channels can be pruned; a trial cut" in outcome.out
    assert "Frozen: 4 filters of head.weight, part of the model's output" in outcome.out
    assert "did not use are not pruned: spare.weight, spare.bias." in outcome.out


def test_json_is_all_that_stdout_holds(models: Workplace) -> None:
    outcome = program(models, "residual", *SHAPE, "--json")
    facts = json.loads(outcome.out)
    sys.path.insert(0, str(models.path))
    expected = torchthin.inspect(build_model("models.py:residual"), torch.ones(1, 3, 8, 8)).to_dict()
    assert facts == json.loads(json.dumps(expected))
    assert facts["proved"] is True
    assert [group["channels"] for group in facts["groups"]] == [8, 6]
    assert facts["unused"] == ["spare.weight", "spare.bias"]
    assert "building" in outcome.err


def test_without_proof_says_so(models: Workplace) -> None:
    outcome = program(models, "residual", *SHAPE, "--proof", "off")
    assert outcome.code == 0
    trial = 'a trial cut of half of every group ran and was not proved (proof="off").'
    assert f"2 groups of 14 channels can be pruned; {trial}" in outcome.out
    facts = json.loads(program(models, "residual", *SHAPE, "--proof", "off", "--json").out)
    assert (facts["tried"], facts["proved"]) == (True, False)


def test_with_a_thinned_checkpoint(place: Workplace) -> None:
    model = ("--model-factory", "net.py:net", "--input-shape", "1,3,8,8")
    assert place.run("prune", *model, "--thin", "--save-to", "thin.pth", main=main).code == 0
    outcome = place.run("inspect", *model, "--checkpoint", "thin.pth", main=main)
    assert outcome.code == 0
    assert re.search(r"^\| conv1\.weight +\| channels +\| +4 \|", outcome.out, re.MULTILINE)


def test_a_model_whose_output_is_nan_proves_nothing(place: Workplace) -> None:
    model = (
        "--model-factory",
        "net.py:net",
        "--checkpoint",
        "best.pth",
        *SHAPE,
    )  # its variances are negative
    for command in ("prune", "inspect"):
        more = ("--thin", "--save-to", "thin.pth") if command == "prune" else ()
        outcome = place.run(command, *model, *more, main=main)
        assert outcome.code == 2
        assert "NaN throughout, so nothing can be proved" in outcome.err
        assert not (place.path / "thin.pth").exists()


def test_the_reason_names_operator_module_and_line(models: Workplace) -> None:
    outcome = program(models, "stuck", *SHAPE)
    line = next(n for n, text in enumerate(MODELS.splitlines(), 1) if "svdvals" in text)
    assert outcome.code == 3
    assert "Nothing can be pruned." in outcome.out
    assert "Frozen: 8 filters of conv.weight, no rule for this operator: aten._linalg_svd" in outcome.out
    assert f"models.py:{line})" in outcome.out
    assert "Operators without a rule, their inputs are frozen: aten._linalg_svd" in outcome.out
    assert outcome.err.startswith(
        "error: Nothing of the model can be pruned. conv.weight: 8 filters are kept"
    )
    assert outcome.err.count("\n") == 1


def test_exit_codes_of_the_real_program(models: Workplace) -> None:
    given = ("inspect", "--model-factory", "models.py:single", *SHAPE, "--json")
    single = models.process(*given, main=main)
    assert single.code == 3
    assert json.loads(single.out)["groups"] == []
    assert single.err.splitlines()[-1].startswith("error: Nothing of the model can be pruned.")
    assert "Traceback" not in single.err
    assert "4 filters are kept, part of the model's output" in single.err
    assert models.run("inspect", "--model-factory", "models.py:residual", *SHAPE, main=main).code == 0
    missing = models.run("inspect", "--model-factory", "models.py:residual", main=main)
    assert (missing.code, missing.out) == (2, "building\n" if "building" in missing.out else "")
    assert "--input-shape" in missing.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model-factory", "models.py:residual"), "Example inputs are needed"),
        (SHAPE, "A model factory is needed"),
        (("--model-factory", "models.py:nothing", *SHAPE), "nothing"),
        (("--model-factory", "models.py:residual", "--input-shape", "1,3,x"), "input shape"),
        (
            ("--model-factory", "models.py:residual", "--input-shape", "1,5,8,8"),
            "does not run on the example_inputs",
        ),
        (("--model-factory", "models.py:moody", *SHAPE), "ValueError: not today"),
        (("--model-factory", "models.py:residual", *SHAPE, "--checkpoint", "none.pth"), "does not exist"),
        (("--model-factory", "models.py:residual", *SHAPE, "--target-sparsity", "0.5"), "Unknown argument"),
        (("--model-factory", "models.py:residual", *SHAPE, "--proff", "off"), "Did you mean '--proof'"),
        (
            ("--model-factory", "models.py:residual", *SHAPE, "--proof", "no"),
            "must be one of off, quick, full",
        ),
        (("--model-factory", "models.py:residual", *SHAPE, "--device", "tpu"), "The device must be"),
    ],
)
def test_bad_input(models: Workplace, arguments: Any, message: str) -> None:
    def run(*given: str) -> Outcome:
        return models.run("inspect", *given, main=main)

    models.assert_refused(message, *arguments, run=run)


def test_a_model_without_values_is_inspected_but_not_pruned(place: Workplace) -> None:
    (place.path / "meta.py").write_text("import net\n\ndef planned():\n    return net.net().to('meta')\n")
    model = ("--model-factory", "meta.py:planned", *SHAPE)
    outcome = place.run("inspect", *model, main=main)
    assert outcome.code == 0
    assert "conv1.weight" in outcome.out
    refused = place.run("prune", *model, "--thin", main=main)
    assert refused.code == 2
    assert (
        refused.err
        == "error: The weight conv1.weight is on the meta device and has no values. Load the weights first.\n"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("torchthin ")
