"""``--synthesis-to``: three files for ai8x-synthesis, or none and the reason."""

from pathlib import Path

import pytest
import torch
import yaml
from workplace import Outcome, Workplace

from pose_demo import cli as pose_drive

MODEL = ("--model-factory", "net.py:net", "--checkpoint", "best.pth", "--input-shape", "1,3,16,16")
LARGE = """
from torch import nn

def kernel(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5))
def large(): return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *(nn.Conv2d(64, 64, 3, padding=1) for _ in range(14)))
"""


def test_a_thinned_model_is_written(place: Workplace) -> None:
    content = torch.load("best.pth", weights_only=True)
    content["state_dict"]["bn.running_var"].abs_()
    torch.save(content, "best.pth")
    outcome = place.run(
        *MODEL, "--target-sparsity", "0.5", "--thin", "--save-to", "thin.pth", "--synthesis-to", "chip"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert (
        "For ai8x-synthesis (MAX78000): chip/thin_synthesis.pth.tar, thin.yaml and thin_sample.npy."
        in outcome.out
    )
    content = torch.load("chip/thin_synthesis.pth.tar", weights_only=True)
    assert (content["epoch"], content["arch"]) == (7, "tiny")
    shapes = {n: tuple(v.shape) for n, v in content["state_dict"].items() if n.endswith("weight")}
    assert shapes == {
        "conv1.op.weight": (4, 3, 3, 3),
        "conv2.op.weight": (2, 4, 1, 1),
        "fc.op.weight": (2, 2),
    }
    description = yaml.safe_load(Path("chip/thin.yaml").read_text())
    assert [layer["processors"] for layer in description["layers"]] == [0x7, 0xF, 0x3]
    assert sorted(path.name for path in Path("chip").iterdir()) == [
        "thin.yaml", "thin_sample.npy", "thin_synthesis.pth.tar",
    ]  # fmt: skip


def test_the_pose_student_is_written_for_the_chip_by_default(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pose_demo import score

    monkeypatch.setattr(
        score, "score_validation", lambda model, device: score.PoseScore(0.0, 0.0, 0.0, 0, 0, "nothing")
    )

    def run(*arguments: str) -> Outcome:
        return place.run(*arguments, main=lambda argv: pose_drive.main(argv, drive=Path("nowhere")))

    outcome = run("--chip", "MAX78000", "--target-cycles", "0.75x", "--thin", "--out-dir", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "745,665 -> 558,785" in outcome.out
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "best_pruned_MAX78000.pth", "best_pruned_MAX78000.yaml", "best_pruned_MAX78000_sample.npy",
        "best_pruned_MAX78000_synthesis.pth.tar",
    ]  # fmt: skip
    thin = torch.load("out/best_pruned_MAX78000.pth", weights_only=True)["state_dict"]
    written = torch.load("out/best_pruned_MAX78000_synthesis.pth.tar", weights_only=True)["state_dict"]
    assert torch.equal(thin["heat_out.op.weight"], written["heat_out.op.weight"])
    assert written["conv1.op.weight"].shape == (20, 12, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model-factory", "large.py:kernel", "--input-shape", "1,3,16,16"), "1: kernel 5x5; allowed is 1x1 or 3x3"),
        (("--model-factory", "net.py:net"), "The --synthesis-to needs the input's size"),
        ((*MODEL, "--synthesis-chip", "MAX7800"), "The chip must be one of MAX78000, MAX78002"),
        ((*MODEL, "--synthesis-yaml", "none.yaml"), "The network description none.yaml cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    Path("large.py").write_text(LARGE)
    place.assert_refused(
        message, *arguments, "--target-sparsity", "0.5", "--save-to", "a.pth", "--synthesis-to", "chip"
    )


def test_a_description_without_a_folder_is_refused(place: Workplace) -> None:
    place.assert_refused("The --synthesis-yaml needs --synthesis-to", *MODEL, "--synthesis-yaml", "a.yaml")


def test_what_does_not_fit_exits_with_3_and_writes_nothing(place: Workplace) -> None:
    Path("large.py").write_text(LARGE)
    before = place.files()
    outcome = place.run(
        "--model-factory", "large.py:large", "--input-shape", "1,3,16,16", "--target-sparsity", "0",
        "--save-to", "a.pth", "--synthesis-to", "chip",
    )  # fmt: skip
    assert outcome.code == 3
    assert outcome.err.startswith(
        "error: The model does not fit MAX78000, so nothing was written for it. 13: kernels"
    )
    assert outcome.err.count("\n") == 1
    assert place.files() == before
