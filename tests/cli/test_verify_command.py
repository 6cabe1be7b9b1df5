"""torchthin verify and torchthin bench: figures and exit codes."""

import json

import pytest
import torch
from workplace import Outcome, Workplace

from torchthin.cli.main import main

SHAPE = ("--input-shape", "1,3,8,8")
NET = ("net.py:net", *SHAPE)


@pytest.fixture
def pruned(place: Workplace) -> Workplace:
    """`dense.pth`, and what prune made of it: `masked.pth` and `thin.pth`."""
    import sys

    sys.path.insert(0, str(place.path))
    from torchthin.io.factory import build_model

    torch.save(build_model("net.py:net").state_dict(), "dense.pth")
    for name, more in (("masked", ()), ("thin", ("--thin",))):
        outcome = run(
            place,
            "prune",
            "--model-factory",
            *NET,
            "--checkpoint",
            "dense.pth",
            *more,
            "--save-to",
            f"{name}.pth",
        )
        assert outcome.code == 0, outcome.err
    return place


def run(place: Workplace, *arguments: str) -> Outcome:
    return place.run(*arguments, main=main)


def test_the_thinned_model_is_the_masked_one(pruned: Workplace) -> None:
    for other in (("masked.pth",), ("dense.pth", "--masked")):
        outcome = run(
            pruned, "verify", *NET, "--checkpoint", "thin.pth", "--against-checkpoint", *other, "--json"
        )
        assert outcome.code == 0, outcome.err
        facts = json.loads(outcome.out)
        assert facts["holds"]
        assert len(facts["outputs"]) == facts["runs"] == 3
        assert facts["relative"] < 1e-6


def test_models_that_differ_end_in_3_as_a_real_process(pruned: Workplace) -> None:
    outcome = pruned.process(
        "verify", *NET, "--checkpoint", "thin.pth", "--against-checkpoint", "dense.pth", main=main
    )
    assert outcome.code == 3
    assert "run 3, output 0 (1, 2): off by" in outcome.out
    assert "failed: outputs differ by" in outcome.out
    assert outcome.err.startswith("error: The models differ: off by ")
    assert "Traceback" not in outcome.err


PADDED = """
import torch
from torch import nn

def padded():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
"""


def test_an_approximate_file_is_called_approximate_until_its_weights_are_others(place: Workplace) -> None:
    (place.path / "padded.py").write_text(PADDED)
    made = ("--model-factory", "padded.py:padded", *SHAPE, "--thin", "--save-to", "thin.pth")
    assert run(place, "prune", *made).code == 0
    torch.save(load_model(place), "dense.pth")
    compare = (
        "verify",
        "padded.py:padded",
        *SHAPE,
        "--checkpoint",
        "thin.pth",
        "--against-checkpoint",
        "dense.pth",
    )
    outcome = run(place, *compare, "--masked")
    assert outcome.code == 0, outcome.err
    assert (
        "approximate: off by" in outcome.out
        and "2: a constant of removed channels meets the border" in outcome.out
    )
    facts = json.loads(run(place, *compare, "--masked", "--json").out)
    assert (facts["verdict"], facts["holds"], facts["exact"]) == ("approximate", True, False)
    assert 0 < facts["relative_to_masked"] <= 2 * facts["measured_when_made"]
    assert run(place, *compare, "--masked", "--tolerance", "0").code == 3
    torch.save({name: tensor + 1 for name, tensor in load_model(place).items()}, "dense.pth")
    outcome = run(place, *compare, "--masked")
    assert outcome.code == 3 and "failed: outputs differ" in outcome.out


def load_model(place: Workplace) -> dict[str, torch.Tensor]:
    from torchthin.io.factory import build_model

    return build_model(f"{place.path / 'padded.py'}:padded").state_dict()


def test_a_wider_tolerance_is_what_the_user_asks_for(pruned: Workplace) -> None:
    compare = ("verify", *NET, "--checkpoint", "thin.pth", "--against-checkpoint", "dense.pth")
    assert run(pruned, *compare, "--tolerance", "0").code == 3
    outcome = run(pruned, *compare, "--json")
    error = json.loads(outcome.out)["relative"]
    if error < 0.9:
        assert run(pruned, *compare, "--tolerance", str(error * 1.01)).code == 0
    assert run(pruned, *compare, "--tolerance", str(error * 0.99)).code == 3


def test_bench_prints_and_tells_as_json(pruned: Workplace) -> None:
    how = ("--repeats", "2", "--warmup", "0", "--threads", "1", "--runtimes", "torch")
    outcome = run(pruned, "bench", *NET, "--checkpoint", "thin.pth", *how, "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["threads"] == 1
    assert facts["thinned"]["parameters"] < facts["dense"]["parameters"]
    assert [len(times) for times in facts["timings"][0]["runs"].values()] == [2, 2]
    text = run(pruned, "bench", *NET, "--checkpoint", "masked.pth", *how)
    assert "masked.pth is not thinned: both models have the same size." in text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", *NET), "A second model is needed"),
        (
            ("verify", *NET, "--against-checkpoint", "best.pth", "--masked"),
            "needs the masks of a pruned file",
        ),
        (
            ("verify", *NET, "--checkpoint", "best.pth", "--against-checkpoint", "best.pth", "--masked"),
            "holds no masks",
        ),
        (("verify", *NET, "--against-checkpoint", "best.pth", "--runs", "0"), "--runs must be at least 1"),
        (("verify", *NET, "--against-checkpoint", "best.pth", "--tolerance", "2"), "must be in [0, 1)"),
        (("bench", *NET), "A thinned checkpoint is needed"),
        (("bench", *NET, "--checkpoint", "best.pth", "--runtimes", "tvm"), "must be of torch, onnxruntime"),
    ],
)
def test_bad_input(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    def refused(*given: str) -> Outcome:
        return run(place, *given)

    place.assert_refused(message, *arguments, run=refused)


def test_what_was_not_measured_when_the_file_was_made_is_said(place: Workplace) -> None:
    net = "nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))"
    source = f"import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n    return {net}\n"
    (place.path / "padded.py").write_text(source)
    padded = ("padded.py:net", *SHAPE)
    made = run(
        place, "prune", "--model-factory", *padded, "--thin", "--proof", "off", "--save-to", "thin.pth"
    )
    assert made.code == 0, made.err
    compare = ("verify", *padded, "--checkpoint", "thin.pth", "--against", "padded.py:net", "--masked")
    outcome = run(place, *compare)
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert "They must differ (2: a constant of removed channels meets the border)" in outcome.err
    assert run(place, *compare, "--tolerance", "0.9").code == 0


def test_a_recovered_file_is_told_from_a_wrong_one(place: Workplace) -> None:
    torch.save(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), "x.pt")
    content = torch.load("best.pth", weights_only=True)
    content["state_dict"]["bn.running_var"].abs_()
    torch.save(content, "best.pth")
    made = (*NET, "--checkpoint", "best.pth", "--thin", "--data", "x.pt", "--save-to", "thin.pth")
    assert run(place, "prune", "--model-factory", *made).code == 0
    outcome = run(
        place, "verify", *NET, "--checkpoint", "thin.pth", "--against-checkpoint", "best.pth", "--masked"
    )
    assert outcome.code == 3
    assert "layers of the file were refitted after thinning" in outcome.err
    assert "Read best.pth (epoch 7).\n" in outcome.out
