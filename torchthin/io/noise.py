"""Inputs for whoever has none: noise whose spectrum falls as that of pictures and sounds does."""

from __future__ import annotations

import torch
from torch import Tensor

from torchthin.errors import InputError

STEEPEST = 2.0
"""Largest exponent a of the spectrum ``1 / f**a``; the least is half of it."""


def noise_like(example: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random inputs of the shape of `example`'s, with mean 0 expected and deviation 1 in each.

    The amplitudes of each input fall as ``1 / f**a`` over all axes behind the channels, with an a of its own between 1 and
    2: natural pictures have about 1 (Field 1987), and networks learn from such noise (Baradad et al. 2021, arXiv
    2106.05963). Without such axes the noise is white.

    Args:
        example: inputs (n, channels, ...) of the model, of a floating point dtype.
        count: how many to make.
        generator: on the CPU; the same one gives the same noise.

    Raises:
        InputError: whole numbers, such as words by their numbers, have no noise.
    """
    if not example.is_floating_point():
        raise InputError(
            f"The calibration data 'noise' stand for floating point inputs. The model takes {example.dtype}; give inputs of it."
        )
    white = torch.randn(count, *example.shape[1:], generator=generator)
    axes = [axis for axis in range(2, white.dim()) if white.shape[axis] > 1]
    if axes:
        slope = STEEPEST * (1 + torch.rand(count, generator=generator)) / 2
        frequency = _frequencies(white, axes)
        falling = frequency[None] ** -slope.view(-1, *[1] * (white.dim() - 1))
        white = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * falling, dim=axes).real
        deviation = white.flatten(1).std(1).clamp_min(torch.finfo(white.dtype).tiny)
        white = white / deviation.view(-1, *[1] * (white.dim() - 1))
    return white.to(example)


def _frequencies(white: Tensor, axes: list[int]) -> Tensor:
    """Return the length of the frequency vector at each place of the spectrum (1, ...); the mean has the least other one."""
    squares = torch.zeros(white.shape[2:])[None]
    for axis in axes:
        along = torch.fft.fftfreq(white.shape[axis]) ** 2
        squares = squares + along.view([-1 if a == axis else 1 for a in range(1, white.dim())])
    lengths = squares.sqrt()
    return lengths.clamp_min(1 / max(white.shape[axis] for axis in axes))
