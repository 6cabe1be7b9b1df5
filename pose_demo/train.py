"""Train the pose student: ``python -m pose_demo.train --people FILE --check FILE --out FOLDER``.

Every step's pictures follow from the seed and the step's number, so a run that was stopped continues exactly
where it was: start the same command again. The saved weights are a moving average, those that score best on a
check set of other people; the shipped validation set is not used before the end.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pose_demo.files import load_people
from pose_demo.people import People
from pose_demo.scene import compose
from pose_demo.score import normalise, score
from pose_demo.student import PoseStudent
from pose_demo.student_file import record_score, save_student
from pose_demo.targets import heatmap_targets, paf_targets
from pose_demo.validation import PoseData
from torchthin.errors import TorchthinError
from torchthin.io.checkpoints import read_state, write_state

_log = logging.getLogger(__name__)
_CHECK_SEED = 10**9
_SEED_STRIDE = 10**6
_PREFETCH = 3
_CHECK_NAME = "the synthetic check set"
_STATE_KEYS = ("step", "best", "model", "averaged", "optimizer")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults made the shipped student."""

    steps: int = 4000
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    peak_weight: float = 9.0
    paf_weight: float = 0.3
    average: float = 0.998
    check_every: int = 250
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Batch:
    """Pictures (B, 3, 128, 128) in [-1, 127/128] and their targets (B, 19, 16, 16) and (B, 38, 16, 16)."""

    images: torch.Tensor
    heatmaps: torch.Tensor
    pafs: torch.Tensor


def make_batch(people: People, step: int, config: TrainConfig) -> Batch:
    """Return the pictures of one step: they depend on the seed and the step alone."""
    device = torch.device(config.device)
    generator = torch.Generator(device).manual_seed(config.seed * _SEED_STRIDE + step)
    main = torch.randint(len(people.rgba), (config.batch_size,), generator=generator, device=device)
    scenes = compose(people, main, generator)
    images = normalise(scenes.images).contiguous(memory_format=torch.channels_last)
    return Batch(images, heatmap_targets(scenes.keypoints), paf_targets(scenes.keypoints))


def make_check(people: People, config: TrainConfig) -> PoseData:
    """Return one fixed picture of each person, to choose the best weights by."""
    device = torch.device(config.device)
    generator = torch.Generator(device).manual_seed(_CHECK_SEED)
    scenes = compose(people, torch.arange(len(people.rgba), device=device), generator)
    arrays = (scenes.images, scenes.keypoints[:, 0], scenes.boxes, scenes.areas)
    return PoseData(*(array.cpu().numpy() for array in arrays))


def loss_of(outputs: Sequence[torch.Tensor], batch: Batch, config: TrainConfig) -> torch.Tensor:
    """Return the mean squared error; cells near keypoints weigh up to 1 + peak_weight, PAFs paf_weight."""
    weight = 1 + config.peak_weight * batch.heatmaps
    weight[:, -1] = 1  # the background is no peak
    heat = (weight * (outputs[0].float() - batch.heatmaps).square()).mean()
    return heat + config.paf_weight * (outputs[1].float() - batch.pafs).square().mean()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of a step: a linear rise, then a half cosine to zero."""
    rise = max(1, round(config.warmup * config.steps))
    if step < rise:
        return config.lr * (step + 1) / rise
    done = (step - rise) / max(1, config.steps - rise)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


class Trainer:
    """One training run in a folder: ``state.pth`` to resume from, ``student.pth`` with the best weights."""

    def __init__(self, people: People, check: PoseData, out: Path, config: TrainConfig) -> None:
        self.people, self.check, self.out, self.config = people, check, out, config
        torch.manual_seed(config.seed)
        self.model = PoseStudent().to(config.device)
        self.averaged = PoseStudent().to(config.device)
        self.averaged.load_state_dict(self.model.state_dict())
        self.optimizer = _optimizer(self.model, config)
        self.step, self.best = 0, -1.0
        if (out / "state.pth").exists():
            self._resume()

    def run(self, until: int | None = None) -> None:
        """Train from the current step to the last, or only to step `until`, which must be a check step."""
        for batch in self._batches(self.config.steps if until is None else until):
            loss = self._train(batch)
            self.step += 1
            if self.step % self.config.check_every == 0 or self.step == self.config.steps:
                self._check(loss)

    def _batches(self, end: int) -> Iterator[Batch]:
        """Yield the batches in order, up to step `end`; a second thread composes a few steps ahead."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            steps = range(self.step, end)
            waiting = [pool.submit(make_batch, self.people, step, self.config) for step in steps[:_PREFETCH]]
            for step in steps:
                batch = waiting.pop(0).result()
                if step + _PREFETCH < end:
                    waiting.append(pool.submit(make_batch, self.people, step + _PREFETCH, self.config))
                yield batch

    def _train(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.model.train()
        with torch.autocast(torch.device(self.config.device).type, torch.bfloat16):
            outputs = self.model(batch.images)
        loss = loss_of(outputs, batch, self.config)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        current = self.model.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def _check(self, loss: float) -> None:
        reached = score(self.averaged, self.check, name=_CHECK_NAME, device=self.config.device)
        _log.info(
            "step %d  loss %.5f  PCK@0.1 %.4f  PCK@0.2 %.4f  OKS %.4f",
            *(self.step, loss, reached.pck_01, reached.pck_02, reached.oks),
        )
        if reached.oks > self.best:
            self.best = reached.oks
            save_student(self.out / "student.pth", self.averaged, self.step, {"check": reached.to_dict()})
        state = {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(self.out / "state.pth", "state", state)

    def _resume(self) -> None:
        state = read_state(self.out / "state.pth", "state", _STATE_KEYS, "Remove it to start over.")
        self.step, self.best = state["step"], state["best"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        _log.info("resumed at step %d", self.step)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return 0."""
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m pose_demo.train", description="Train the pose student on synthetic people."
    )
    folder = Path("runs/pose")
    parser.add_argument("--people", type=Path, default=folder / "people.npz", help="default: %(default)s")
    parser.add_argument("--check", type=Path, default=folder / "check.npz", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=folder, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="default: %(default)s")
    parser.add_argument("--check-every", type=int, default=defaults.check_every, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    parser.add_argument("--device", default=defaults.device, help="default: %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = TrainConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        check_every=options.check_every,
        seed=options.seed,
        device=options.device,
    )
    try:
        _train(config, options.people, options.check, options.out)
    except TorchthinError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    return 0


def _train(config: TrainConfig, people_file: Path, check_file: Path, out: Path) -> None:
    people = _on(load_people(people_file), config.device)
    check = make_check(_on(load_people(check_file), config.device), config)
    Trainer(people, check, out, config).run()
    reached = record_score(out / "student.pth", config.device)
    _log.info("shipped validation set (synthetic): %s", reached)


def _on(people: People, device: str) -> People:
    return People(people.rgba.to(device), people.keypoints.to(device))


if __name__ == "__main__":
    raise SystemExit(main())
