"""Make the synthetic data: ``python -m pose_demo.generate people|cut-outs|validation`` (extra ``pose-data``).

`people` renders cut-outs for training, `cut-outs` the first of them for pictures without labels, `validation` a finished set
of pictures. All follow from their seed; the validation set's people and pictures share no seed with the training's.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from pose_demo.appearance import anatomy_of
from pose_demo.body import load_bodies
from pose_demo.calibration import CUT_OUTS_FILE, save_cut_outs
from pose_demo.files import save_people
from pose_demo.people import People, render_people
from pose_demo.scene import compose
from pose_demo.validation import VALIDATION_FILE, PoseData, save_data
from torchthin.errors import TorchthinError

BATCH = 16
TRAINING_SEED = 1
VALIDATION_SEED = 2026
_MIN_SEEN = 8

_log = logging.getLogger(__name__)


def make_people(count: int, seed: int, identities: int, device: str = "cpu") -> People:
    """Return `count` rendered people, of `identities` bodies and the mixtures of any two of them."""
    bodies = load_bodies(identities, seed).to(device)
    anatomy = anatomy_of(bodies)
    generator = torch.Generator(device).manual_seed(seed)
    batches = []
    for start in range(0, count, BATCH):
        batches.append(render_people(bodies, anatomy, BATCH, generator))
        if start % (BATCH * 50) == 0:
            _log.info("%d of %d people", start, count)
    return People(
        torch.cat([people.rgba for people in batches])[:count],
        torch.cat([people.keypoints for people in batches])[:count],
    )


def make_validation(count: int, seed: int, identities: int, device: str = "cpu") -> PoseData:
    """Return `count` finished pictures; those that show fewer than 8 keypoints of the person are left out.

    Colours keep 5 of their 8 bits, so that the file stays small.
    """
    people = make_people(count * 5 // 4, seed, identities, device)
    generator = torch.Generator(device).manual_seed(seed + 1)
    scenes = compose(people, torch.arange(len(people.rgba), device=device), generator)
    good = ((scenes.keypoints[:, 0, :, 2] > 0).sum(1) >= _MIN_SEEN).nonzero()[:count, 0]
    images = (scenes.images[good] & 0xF8) + 4
    arrays = (images, scenes.keypoints[good, 0], scenes.boxes[good], scenes.areas[good])
    return PoseData(*(array.cpu().numpy() for array in arrays))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return 0."""
    parser = argparse.ArgumentParser(
        prog="python -m pose_demo.generate", description="Make synthetic pose data."
    )
    parser.add_argument("what", choices=["people", "cut-outs", "validation"])
    parser.add_argument("--out", type=Path, help="default: runs/pose/people.npz or the shipped file")
    parser.add_argument("--count", type=int, help="default: 14000 people, 192 cut-outs or 300 pictures")
    parser.add_argument("--seed", type=int, help=f"default: {TRAINING_SEED} or {VALIDATION_SEED}")
    parser.add_argument("--identities", type=int, default=160, help="different bodies (default: 160)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if min(_given(options.count, 1), options.identities) < 1:
        parser.error("--count and --identities must be at least 1.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _make(options)
    except TorchthinError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    return 0


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _make(options: argparse.Namespace) -> None:
    if options.what == "people":
        seed = _given(options.seed, TRAINING_SEED)
        people = make_people(_given(options.count, 14_000), seed, options.identities, options.device)
        save_people(options.out or Path("runs/pose/people.npz"), people)
    elif options.what == "cut-outs":
        seed = _given(options.seed, TRAINING_SEED)
        people = make_people(_given(options.count, 192), seed, options.identities, options.device)
        save_cut_outs(options.out or CUT_OUTS_FILE, people.rgba)
    else:
        seed = _given(options.seed, VALIDATION_SEED)
        data = make_validation(_given(options.count, 300), seed, options.identities, options.device)
        save_data(options.out or VALIDATION_FILE, data)


if __name__ == "__main__":
    raise SystemExit(main())
