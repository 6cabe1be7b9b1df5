import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pose_demo.coco import load_coco
from pose_demo.score import score_coco
from pose_demo.skeleton import COCO_KEYPOINTS, KEYPOINTS
from torchthin.errors import InputError

NOSE, WRIST = COCO_KEYPOINTS.index("nose"), COCO_KEYPOINTS.index("left_wrist")


def person(number: int, **changes: Any) -> dict[str, Any]:
    keypoints = [0] * 51
    keypoints[3 * NOSE : 3 * NOSE + 3] = [80, 50, 2]
    keypoints[3 * WRIST : 3 * WRIST + 3] = [100, 90, 1]
    record = {
        "id": number,
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [60.0, 40.0, 60.0, 80.0],
        "area": 3000.0,
        "num_keypoints": 2,
        "keypoints": keypoints,
    }
    return record | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture = np.zeros((150, 200, 3), dtype=np.uint8)
    picture[50, 80] = 255  # the nose
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "one.png")
    return tmp_path


def write(folder: Path, *people: dict[str, Any]) -> Path:
    path = folder / "person_keypoints.json"
    content = {
        "images": [{"id": 7, "file_name": "one.png", "width": 200, "height": 150}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": list(people),
    }
    path.write_text(json.dumps(content))
    return path


def test_a_person_becomes_a_square_crop_with_its_keypoints(folder: Path, capsys: Any) -> None:
    data = load_coco(write(folder, person(1)), folder / "images")
    assert capsys.readouterr().out == ""
    assert data.images.shape == (1, 3, 128, 128)
    # the square: 1.25 * 80 = 100 pixels around (90, 80), so 1.28 crop pixels for one of the picture
    assert data.boxes.tolist() == [pytest.approx([25.6, 12.8, 76.8, 102.4])]
    assert data.areas.tolist() == [pytest.approx(3000 * 1.28**2)]
    nose = data.keypoints[0, KEYPOINTS.index("nose")]
    assert nose.tolist() == pytest.approx([(80.5 - 40) * 1.28, (50.5 - 30) * 1.28, 2])
    assert data.keypoints[0, KEYPOINTS.index("left_wrist"), 2] == 1
    assert data.keypoints[0, KEYPOINTS.index("neck"), 2] == 0
    brightest = np.unravel_index(data.images[0, 0].argmax(), (128, 128))
    assert abs(brightest[1] + 0.5 - nose[0]) <= 1
    assert abs(brightest[0] + 0.5 - nose[1]) <= 1


def test_what_lies_outside_the_picture_is_black(folder: Path) -> None:
    Image.fromarray(np.full((150, 200, 3), 255, np.uint8)).save(folder / "images" / "one.png")
    data = load_coco(write(folder, person(1, bbox=[-40.0, 40.0, 80.0, 80.0])), folder / "images")
    assert data.images[0, :, :, :50].max() == 0
    assert data.images[0, :, 40:90, 70:].min() == 255


def test_crowds_people_without_keypoints_and_empty_boxes_are_left_out(folder: Path) -> None:
    path = write(
        folder,
        person(1),
        person(2, iscrowd=1),
        person(3, keypoints=[0] * 51),
        person(4, bbox=[0.0, 0.0, 0.0, 0.0]),
        {"id": 5, "image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": [0.0, 0.0, 9.0, 9.0], "area": 9.0},
    )
    assert len(load_coco(path, folder / "images").images) == 1


class Pointer(nn.Module):
    """Answers every picture with one peak, at the cell of the nose in the test's crop."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = torch.zeros(len(images), 19, 16, 16)
        maps[:, :, 3, 6] = 1
        return [maps]


def test_a_folder_is_scored_by_the_same_rules(folder: Path) -> None:
    path = write(folder, person(1))
    result = score_coco(Pointer(), path, folder / "images")
    assert (result.people, result.keypoints, result.data) == (1, 2, str(path))
    assert result.pck_01 == 0.5
    assert 0.4 < result.oks < 0.6


def test_missing_and_wrong_files_are_named(folder: Path) -> None:
    path = write(folder, person(1))
    with pytest.raises(InputError, match=r"annotations .* do not exist"):
        load_coco(folder / "none.json", folder / "images")
    with pytest.raises(InputError, match=r"image folder .* does not exist"):
        load_coco(path, folder / "none")
    with pytest.raises(InputError, match="hold no person with keypoints"):
        load_coco(write(folder), folder / "images")
    (folder / "images" / "one.png").unlink()
    with pytest.raises(InputError, match=r"picture .*one\.png does not exist"):
        load_coco(write(folder, person(1)), folder / "images")
    path.write_text("no json")
    with pytest.raises(InputError, match="must be COCO's JSON"):
        load_coco(path, folder / "images")


@pytest.mark.parametrize("package", ["pycocotools.coco", "PIL.Image"])
def test_missing_packages_are_named(folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, person(1))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'torchthin\[coco\]'"):
        load_coco(path, folder / "images")
