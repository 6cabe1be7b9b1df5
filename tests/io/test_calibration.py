"""Calibration data: every form a user may have them in, and every way they can be wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from torchthin.config import Pixels
from torchthin.errors import FactoryError, InputError
from torchthin.graph.inputs import Inputs, as_inputs
from torchthin.io.calibration import calibration

LIKE = as_inputs(torch.zeros(2, 3, 8, 8))
IMAGES = torch.randn(100, 3, 8, 8)


def joined(batches: tuple[Inputs, ...]) -> torch.Tensor:
    return torch.cat([next(batch.tensors()) for batch in batches])


def test_a_tensor_is_split_and_cut_at_the_limit() -> None:
    found = calibration(IMAGES, like=LIKE, max_samples=70)
    assert found.samples == 70
    assert torch.equal(joined(found.batches), IMAGES[:70])
    assert max(len(next(batch.tensors())) for batch in found.batches) <= 32
    assert found.notes == ()


def test_labels_of_a_data_loader_are_left_out_with_a_note() -> None:
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(100)), batch_size=16)
    found = calibration(loader, like=LIKE, max_samples=40)
    assert torch.equal(joined(found.batches), IMAGES[:40])
    assert all(len(batch.args) == 1 for batch in found.batches)
    assert "labels" in found.notes[0]


def test_single_inputs_get_a_first_axis() -> None:
    assert calibration([IMAGES[0], IMAGES[1].numpy()], like=LIKE).samples == 2


def test_dicts_keep_what_the_model_takes() -> None:
    like = as_inputs({"ids": torch.zeros(1, 5, dtype=torch.int64), "mask": torch.ones(1, 5)})
    item = {"ids": torch.ones(4, 5, dtype=torch.int32), "mask": torch.ones(4, 5), "labels": torch.zeros(4)}
    found = calibration([item, item], like=like, max_samples=6)
    assert [dict(batch.kwargs or {}).keys() for batch in found.batches] == [{"ids", "mask"}] * 2
    assert [t.dtype for t in found.batches[0].tensors()] == [torch.int64, torch.float32]
    assert found.samples == 6
    assert "labels" in found.notes[0]


def test_tensors_inside_an_argument_are_data_too() -> None:
    like = as_inputs(({"image": torch.zeros(2, 3), "scale": 2.0},))
    given = [({"image": torch.full((4, 3), float(n)), "scale": 2.0},) for n in range(3)]
    found = calibration(given, like=like)
    assert found.samples == 12
    assert torch.equal(found.joined().args[0]["image"][:, 0], torch.arange(3.0).repeat_interleave(4))
    with pytest.raises(InputError, match=r"Item 0 .* must be of the form that the example's argument has"):
        calibration([(torch.zeros(4, 3),)], like=like)


def test_an_endless_loader_is_read_as_far_as_needed() -> None:
    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield IMAGES[:10]

    assert calibration(endless(), like=LIKE, max_samples=25).samples == 25


def test_files_and_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", IMAGES.numpy())
    torch.save([(IMAGES[:50], torch.zeros(50)), (IMAGES[50:], torch.zeros(50))], tmp_path / "x.pt")
    (tmp_path / "mine.py").write_text("import torch\ndef inputs():\n    return torch.ones(3, 3, 8, 8)\n")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(joined(calibration("x.npy", like=LIKE).batches), IMAGES)
    assert torch.equal(joined(calibration(tmp_path / "x.pt", like=LIKE).batches), IMAGES)
    assert calibration("mine.py:inputs", like=LIKE).samples == 3


def test_pictures_are_spread_over_the_folder_and_resized(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            Image.new("RGB", (20, 10), (255, 0, 51)).save(tmp_path / kind / f"{number}.png")
    Image.new("L", (5, 5), 255).save(tmp_path / "b" / "z.png")
    found = calibration(tmp_path, like=LIKE, max_samples=3, pixels=Pixels((0.0, 0.0, 0.2), (1.0, 1.0, 2.0)))
    values = joined(found.batches)
    assert values.shape == (3, 3, 8, 8)
    assert torch.allclose(values[0].amax((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    assert torch.allclose(
        values[-1].amax((1, 2)), torch.tensor([1.0, 1.0, 0.4]), atol=1e-6
    )  # the last of the other kind


def test_parts_that_are_no_batches_are_taken_whole() -> None:
    like = as_inputs((torch.zeros(2, 4), torch.zeros(7)))
    found = calibration([(torch.ones(5, 4), torch.ones(7))], like=like, max_samples=3)
    assert [tuple(t.shape) for t in found.batches[0].tensors()] == [(3, 4), (7,)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "hold no input"),
        (torch.zeros(0, 3, 8, 8), "hold no input"),
        (torch.zeros(4, 3, 9, 8), r"shape \(n, 3, 8, 8\)"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "dtype"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
        ([torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), torch.inf)], r"item 1"),
        ([{"x": IMAGES}], "a dict with x"),
        ([()], "0 tensors"),
        (["a"], "a str"),
        (3, "Got int"),
        ("nowhere.npy", "do not exist"),
        (__file__, "a .npy or .pt file"),
    ],
)
def test_bad_data_are_refused_in_one_line(source: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        calibration(source, like=LIKE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("max_samples", [0, -1, True, 2.5])
def test_a_bad_limit_is_refused(max_samples: object) -> None:
    with pytest.raises(InputError, match="at least 1"):
        calibration(IMAGES, like=LIKE, max_samples=max_samples)  # type: ignore[arg-type]


def test_what_the_users_code_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield IMAGES[:2]
        raise OSError("disk gone")

    with pytest.raises(InputError, match="OSError: disk gone"):
        calibration(broken(), like=LIKE)
    (tmp_path / "mine.py").write_text("def inputs():\n    raise ValueError('no data')\n")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "none").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no data"):
        calibration("mine.py:inputs", like=LIKE)
    with pytest.raises(FactoryError, match=r"data mine\.py:nothing"):
        calibration("mine.py:nothing", like=LIKE)
    with pytest.raises(InputError, match="is damaged: it is cut short"):
        calibration("bad.pt", like=LIKE)
    with pytest.raises(InputError, match="holds no picture"):
        calibration("none", like=LIKE)
    with pytest.raises(InputError, match=r"bad\.png"):
        calibration(tmp_path, like=LIKE)
    with pytest.raises(InputError, match="one input"):
        calibration(tmp_path, like=as_inputs(torch.zeros(1, 4)))
