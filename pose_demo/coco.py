"""People of a COCO keypoint folder as square crops. Needs pycocotools and pillow, the extra ``coco``."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pose_demo.skeleton import COCO_KEYPOINTS, from_coco
from pose_demo.validation import PoseData
from torchthin.errors import InputError

CROP = 1.25
_NEED = "Scoring a COCO folder needs pycocotools and pillow. Install them with: pip install 'torchthin[coco]'"


def load_coco(annotations_json: str | Path, images_dir: str | Path, side: int = 128) -> PoseData:
    """Return one crop for each person who is no crowd and has a labelled keypoint.

    A crop is a square of 1.25 times the longer side of the person's box, around the box's middle, black
    outside the picture, resized to `side` x `side`; keypoints, box and area follow. Raises InputError when a
    file, a folder or a package is missing, or the annotations hold no person keypoints.
    """
    annotations, images = Path(annotations_json), Path(images_dir)
    if not annotations.is_file():
        raise InputError(
            f"The COCO annotations {annotations} do not exist. Name a person_keypoints_*.json file."
        )
    if not images.is_dir():
        raise InputError(f"The COCO image folder {images} does not exist. Name the folder with the pictures.")
    crops = [crop for record in _people(annotations) if (crop := _crop(record, images, side)) is not None]
    if not crops:
        raise InputError(
            f"The COCO annotations {annotations} hold no person with keypoints. Use person_keypoints_*."
        )
    pictures, keypoints, boxes, areas = zip(*crops, strict=True)
    return PoseData(
        np.stack(pictures), np.stack(keypoints), np.stack(boxes), np.array(areas, dtype=np.float32)
    )


def _people(annotations: Path) -> list[tuple[dict[str, Any], str]]:
    """Return (annotation, file name) of every usable person."""
    try:
        coco_class = import_module("pycocotools.coco").COCO
    except ModuleNotFoundError as error:
        raise InputError(_NEED) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
            coco = coco_class(str(annotations))
            records = coco.loadAnns(coco.getAnnIds(iscrowd=False))
            names = {image["id"]: image["file_name"] for image in coco.dataset["images"]}
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(
            f"The COCO annotations {annotations} must be COCO's JSON. Reading: {error!r}."
        ) from error
    return [
        (record, names[record["image_id"]])
        for record in records
        if len(record.get("keypoints", ())) == 3 * len(COCO_KEYPOINTS) and any(record["keypoints"][2::3])
    ]


def _crop(
    record: tuple[dict[str, Any], str], images: Path, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
    """Return picture (3, side, side), keypoints (18, 3), box (4,) and area; None for an empty box."""
    try:
        image = import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise InputError(_NEED) from error
    annotation, name = record
    x, y, width, height = map(float, annotation["bbox"])
    span = CROP * max(width, height)
    if span <= 0:
        return None
    path = images / name
    if not path.is_file():
        raise InputError(f"The COCO picture {path} does not exist. Give the folder that holds {name}.")
    left, top = x + width / 2 - span / 2, y + height / 2 - span / 2
    with image.open(path) as picture:
        square = picture.convert("RGB").transform(
            (side, side),
            image.Transform.AFFINE,
            (span / side, 0, left, 0, span / side, top),
            resample=image.Resampling.BILINEAR,
        )
    zoom = side / span
    keypoints = from_coco(np.array(annotation["keypoints"], dtype=np.float32).reshape(-1, 3))
    # COCO writes the index of the pixel, whose centre lies half a pixel further
    keypoints[:, :2] = (keypoints[:, :2] + 0.5 - (left, top)) * zoom
    box = np.array([x - left, y - top, width, height], dtype=np.float32) * np.float32(zoom)
    pixels = np.asarray(square).transpose(2, 0, 1)
    return pixels, keypoints, box, float(annotation["area"]) * zoom**2
