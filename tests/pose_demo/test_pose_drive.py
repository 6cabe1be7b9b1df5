"""scripts/prune_pose_drive.py: where it reads and writes, what it keeps whole, what it says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from workplace import Outcome, Workplace

import torchthin
from pose_demo import cli as pose_drive
from pose_demo import score
from pose_demo.options import file_name, student_paths
from pose_demo.student import pose_student
from pose_demo.validation import PoseData, load_data
from torchthin.io.checkpoints import read_checkpoint
from torchthin.max7800x import integer_model


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score on 8 pictures; the whole set is scored by the demo."""

    def load(path: Path) -> PoseData:
        data = load_data(path)
        return PoseData(*(getattr(data, field.name)[:8] for field in dataclasses.fields(data)))

    monkeypatch.setattr(score, "load_data", load)
    monkeypatch.setattr(pose_drive, "_in_integers", lambda *given: {})  # computed by one test


@pytest.fixture
def drive(place: Workplace) -> Path:
    """Return a place for the Drive that is not mounted; the student lies beside it."""
    torch.manual_seed(0)
    torch.save({"state_dict": pose_student().state_dict(), "epoch": 200, "arch": "posenet"}, "student.pth")
    return place.path / "drive"


def run(place: Workplace, drive: Path, *arguments: str) -> Outcome:
    return place.run(*arguments, main=lambda argv: pose_drive.main(argv, drive=drive))


def test_the_defaults_without_a_drive() -> None:
    nowhere = Path("/nowhere/at/all")
    assert student_paths(None, None, nowhere) == (None, Path("runs/pruned"))
    assert student_paths("a.pth", "b", nowhere) == (Path("a.pth"), Path("b"))


def test_the_defaults_on_a_mounted_drive(tmp_path: Path) -> None:
    models = tmp_path / "MLonMCU/Models/MAX78000"
    assert student_paths(None, None, tmp_path) == (None, models / "Pruned")
    (models / "IP_2MB").mkdir(parents=True)
    (models / "IP_2MB" / "best.pth").touch()
    assert student_paths(None, None, tmp_path) == (models / "IP_2MB" / "best.pth", models / "Pruned")
    assert str(pose_drive.DRIVE) == "/content/drive/MyDrive"


@pytest.mark.parametrize(
    "target, name", [(0.5, "50"), (0.375, "37.5"), (0.29, "29"), (0.0, "0"), (0.999, "99.9")]
)
def test_file_names(target: float, name: str) -> None:
    assert file_name(target) == f"best_pruned_{name}.pth"


def test_the_shipped_student_is_pruned_when_there_is_no_other(place: Workplace, drive: Path) -> None:
    outcome = run(place, drive)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Source: the student shipped with torchthin" in outcome.out
    assert f"Output: {Path('runs/pruned/best_pruned_50.pth')}" in outcome.out
    content = torch.load("runs/pruned/best_pruned_50.pth", weights_only=True)
    masks = read_checkpoint("runs/pruned/best_pruned_50.pth").masks
    assert len(masks) == 13
    for name, mask in masks.items():
        assert int((~mask.flatten(1).any(1)).sum()) == mask.shape[0] // 2, name
    heads = [name for name in content["state_dict"] if name.startswith(("heat_out.op.w", "paf_out.op.w"))]
    assert len(heads) == 2
    assert all((content["state_dict"][name].flatten(1).abs().sum(1) > 0).all() for name in heads)


def test_a_student_on_the_drive_is_found_and_written_beside(place: Workplace, drive: Path) -> None:
    models = drive / "MLonMCU/Models/MAX78000"
    (models / "IP_2MB").mkdir(parents=True)
    Path("student.pth").rename(models / "IP_2MB" / "best.pth")
    outcome = run(place, drive, "--target-sparsity", "0.375")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Source: {models / 'IP_2MB' / 'best.pth'}" in outcome.out
    content = torch.load(models / "Pruned" / "best_pruned_37.5.pth", weights_only=True)
    assert (content["epoch"], content["arch"], content["target_sparsity"]) == (200, "posenet", 0.375)
    assert content["source"] == str(models / "IP_2MB" / "best.pth")
    assert content["torchthin"]["report"]["kept"] == ["heat_out.op.weight", "paf_out.op.weight"]


_in_integers = pose_drive._in_integers


def test_the_score_is_shown_before_and_after_and_called_synthetic(
    place: Workplace, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pose_drive, "_in_integers", _in_integers)
    outcome = run(place, drive, "--source", "student.pth", "--out-dir", "out", "--method", "agp-unstructured")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    title = next(index for index, line in enumerate(lines) if "synthetic" in line)
    assert "8 pictures" in lines[title]
    assert lines[title].split()[-2:] == ["before", "after"]
    names = [line.rsplit(maxsplit=2)[0].strip() for line in lines[title + 1 : title + 4]]
    assert names == ["PCK@0.1", "PCK@0.2", "mean OKS"]
    model = pose_student()
    model.load_state_dict(torch.load("student.pth", weights_only=True)["state_dict"])
    before = score.score_validation(model)
    model.load_state_dict(torch.load("out/best_pruned_50.pth", weights_only=True)["state_dict"])
    after = score.score_validation(model)
    assert lines[title + 3].split()[-2:] == [f"{before.oks:.4f}", f"{after.oks:.4f}"]
    on_chip = score.score_validation(integer_model(model, torch.zeros(1, 3, 128, 128)))
    assert lines[title + 6].startswith("  mean OKS, 8-bit integers of the chip ")
    assert lines[title + 6].split()[-1] == f"{on_chip.oks:.4f}"


def test_a_thinned_student_is_smaller_and_keeps_its_heads(place: Workplace, drive: Path) -> None:
    outcome = run(place, drive, "--source", "student.pth", "--out-dir", "out", "--thin")
    assert (outcome.code, outcome.err) == (0, "")
    state = torch.load("out/best_pruned_50.pth", weights_only=True)["state_dict"]
    assert state["conv1.op.weight"].shape == (12, 3, 3, 3)
    assert state["conv8.op.weight"].shape == (48, 48, 3, 3)
    assert state["heat_out.op.weight"].shape == (19, 24, 1, 1)
    assert state["paf_out.op.weight"].shape == (38, 24, 1, 1)
    assert list(state) == list(pose_student().state_dict())


def test_exact_and_add_biases_are_those_of_prune(place: Workplace, drive: Path) -> None:
    files = ("--source", "student.pth", "--out-dir", "out")
    proofs = {}
    for flags in ((), ("--exact", "--add-biases")):
        outcome = run(place, drive, *files, "--thin", *flags)
        assert (outcome.code, outcome.err) == (0, "")
        entry = torch.load("out/best_pruned_50.pth", weights_only=True)["torchthin"]
        assert entry["config"]["exact"] == ("--exact" in flags)
        assert entry["config"]["add_biases"] == ("--add-biases" in flags)
        proofs[flags] = entry["report"]["proof"]["exact"]
    assert proofs == {(): False, ("--exact", "--add-biases"): True}


def test_a_recovered_student_is_nearer_to_the_full_one_and_scored_a_third_time(
    place: Workplace, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pose_drive, "PICTURES", 32)
    arguments = ("--target-sparsity", "0.25", "--thin", "--recover", "--recover-epochs", "1")
    outcome = run(place, drive, "--out-dir", "out", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    title = next(index for index, line in enumerate(lines) if "synthetic" in line)
    assert lines[title].split()[-3:] == ["before", "after", "recovered"]
    before, after, recovered = map(float, lines[title + 3].split()[-3:])
    assert before > recovered > after
    content = torch.load("out/best_pruned_25.pth", weights_only=True)
    facts = content["torchthin"]["report"]["recovery"]
    assert facts["samples"] == 32
    assert facts["after"] < facts["before"] / 2
    assert [stage["name"] for stage in facts["stages"]][-1] == "distillation"
    model = torchthin.load(pose_student(), "out/best_pruned_25.pth")
    assert f"{score.score_validation(model).oks:.4f}" == f"{recovered:.4f}"


BAD = {
    "source": (["--source", "nowhere.pth"], "does not exist"),
    "not a student": (["--source", "best.pth"], "must have the names of the model"),
    "sparsity": (["--target-sparsity", "1"], "must be in [0, 1)"),
    "method": (["--method", "l1"], "must be one of"),
    "device": (["--device", "gpu"], "The device must be"),
    "out": (["--out-dir", "net.py"], "Not a directory"),
    "flag": (["--outdir", "x"], "Did you mean '--out-dir'"),
    "recovery of a masked model": (["--recover"], "--recover needs --thin"),
    "epochs alone": (["--thin", "--recover-epochs", "2"], "--recover-epochs needs --recover"),
    "negative epochs": (["--thin", "--recover", "--recover-epochs", "-1"], "must be at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(place: Workplace, drive: Path, case: str) -> None:
    arguments, message = BAD[case]
    options = ("--source", "student.pth", "--out-dir", "out", *arguments)
    place.assert_refused(message, *options, run=lambda *argv: run(place, drive, *argv))


def test_a_coco_folder_is_scored_instead(place: Workplace, drive: Path) -> None:
    Image.fromarray(np.full((96, 96, 3), 128, np.uint8)).save(place.path / "a.png")
    keypoints = [value for joint in range(17) for value in (20 + 3 * joint, 30 + 2 * joint, 2)]
    person = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 70, 80], "area": 5600,
        "num_keypoints": 17, "keypoints": keypoints,
    }  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 96}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [person],
    }
    (place.path / "people.json").write_text(json.dumps(content))
    outcome = run(
        place, drive, "--source", "student.pth", "--out-dir", "out",
        "--coco-annotations", "people.json", "--coco-images", ".",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert "Score on people.json (1 pictures)" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--coco-annotations", "people.json"],
            "needs both --coco-annotations FILE and --coco-images FOLDER",
        ),
        (["--coco-annotations", "none.json", "--coco-images", "."], "none.json do not exist"),
    ],
)
def test_bad_coco_folders(place: Workplace, drive: Path, arguments: list[str], message: str) -> None:
    place.assert_refused(message, "--source", "student.pth", *arguments, run=lambda *a: run(place, drive, *a))


def test_a_pruned_file_is_not_pruned_over(place: Workplace, drive: Path) -> None:
    (place.path / "out").mkdir()
    (place.path / "student.pth").rename(place.path / "out" / "best_pruned_50.pth")
    place.assert_refused(
        "The file of --out-dir must not be the --source itself. Got out/best_pruned_50.pth for both",
        "--source", "out/best_pruned_50.pth", "--out-dir", "out",
        run=lambda *a: run(place, drive, *a),
    )  # fmt: skip
