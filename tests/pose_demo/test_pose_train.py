import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_demo import score, student_file, train
from pose_demo.files import load_people, save_people
from pose_demo.people import People
from pose_demo.student import PoseStudent
from pose_demo.validation import VALIDATION_FILE, PoseData, load_data
from torchthin.errors import CheckpointError, InputError

SMALL = train.TrainConfig(steps=4, batch_size=2, check_every=2)


@pytest.fixture
def crowd() -> People:
    generator = torch.Generator().manual_seed(0)
    rgba = torch.zeros(3, 4, 128, 128, dtype=torch.uint8)
    rgba[:, :, 20:110, 50:80] = 200
    places = torch.rand(3, 18, 2, generator=generator) * torch.tensor([30.0, 90.0]) + torch.tensor(
        [50.0, 20.0]
    )
    return People(rgba, torch.cat([places, torch.full((3, 18, 1), 2.0)], -1))


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = train.TrainConfig(steps=1000, lr=1.0, warmup=0.1)
    rates = [train.learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[100] == 1.0
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] < 1e-5


def test_a_step_gives_the_same_pictures_every_time(crowd: People) -> None:
    first, again, other = (train.make_batch(crowd, step, SMALL) for step in (7, 7, 8))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.pafs, again.pafs)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (2, 3, 128, 128)
    assert first.images.min() >= -1
    assert first.images.max() <= 127 / 128


def test_loss_is_zero_for_the_targets_and_weighs_peaks_more(crowd: People) -> None:
    batch = train.make_batch(crowd, 0, SMALL)
    assert train.loss_of([batch.heatmaps, batch.pafs], batch, SMALL) == 0
    peak = (batch.heatmaps[:, :18] == batch.heatmaps[:, :18].max()).nonzero()[0].tolist()
    flat = (batch.heatmaps[:, :18] == batch.heatmaps[:, :18].min()).nonzero()[0].tolist()
    losses = []
    for where in (peak, flat):
        wrong = batch.heatmaps.clone()
        wrong[tuple(where)] += 0.1
        losses.append(train.loss_of([wrong, batch.pafs], batch, SMALL).item())
    assert losses[0] > 5 * losses[1] > 0


def test_training_learns(crowd: People, tmp_path: Path) -> None:
    config = train.TrainConfig(steps=12, batch_size=2, check_every=12)
    trainer = train.Trainer(crowd, train.make_check(crowd, config), tmp_path, config)
    batch = train.make_batch(crowd, 0, config)
    before = trainer._train(batch)
    trainer.run()
    assert trainer._train(batch) < 0.7 * before


def test_a_stopped_run_goes_on_where_it_was(crowd: People, tmp_path: Path) -> None:
    check = train.make_check(crowd, SMALL)
    whole = train.Trainer(crowd, check, tmp_path / "whole", SMALL)
    whole.run()
    train.Trainer(crowd, check, tmp_path / "parts", SMALL).run(until=2)
    resumed = train.Trainer(crowd, check, tmp_path / "parts", SMALL)
    assert resumed.step == 2
    resumed.run()
    for name, value in whole.averaged.state_dict().items():
        assert torch.equal(value, resumed.averaged.state_dict()[name]), name
    assert torch.load(tmp_path / "parts" / "state.pth", weights_only=True)["step"] == 4


def test_a_damaged_state_is_one_line(crowd: People, tmp_path: Path) -> None:
    check = train.make_check(crowd, SMALL)
    torch.save({"step": 1}, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=r"state\.pth must hold step, best, model, averaged, optimizer"):
        train.Trainer(crowd, check, tmp_path, SMALL)
    (tmp_path / "state.pth").write_bytes((tmp_path / "state.pth").read_bytes()[:300])
    with pytest.raises(
        CheckpointError, match=r"state\.pth is damaged: it is cut short\. Remove it to start over\."
    ):
        train.Trainer(crowd, check, tmp_path, SMALL)


def test_the_student_file_has_adi_names_and_plain_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(VALIDATION_FILE)
    few = PoseData(*(getattr(data, field.name)[:8] for field in dataclasses.fields(data)))
    monkeypatch.setattr(score, "load_data", lambda path: few)
    model = PoseStudent()
    student_file.save_student(tmp_path / "student.pth", model, 9, {"check": {"oks": 0.5}})
    contents = torch.load(tmp_path / "student.pth", weights_only=True)
    assert list(contents) == ["state_dict", "epoch", "arch", "extras"]
    assert contents["epoch"] == 0
    assert contents["arch"] == "pose_student"
    assert contents["extras"] == {"steps": 9, "check": {"oks": 0.5}}
    PoseStudent().load_state_dict(contents["state_dict"])
    recorded = student_file.record_score(tmp_path / "student.pth")
    after = torch.load(tmp_path / "student.pth", weights_only=True)
    assert after["extras"]["validation"] == recorded
    assert after["extras"]["steps"] == 9


def test_people_files_return_what_was_saved(crowd: People, tmp_path: Path) -> None:
    save_people(tmp_path / "deep" / "people.npz", crowd)
    back = load_people(tmp_path / "deep" / "people.npz")
    assert torch.equal(back.rgba, crowd.rgba)
    assert torch.equal(back.keypoints, crowd.keypoints)
    with pytest.raises(InputError, match="does not exist"):
        load_people(tmp_path / "none.npz")
    whole = (tmp_path / "deep" / "people.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.npz cannot be read: .* Make it with"):
        load_people(tmp_path / "cut.npz")


def test_a_failed_write_leaves_the_old_file(
    crowd: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        save_people(path, crowd)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
