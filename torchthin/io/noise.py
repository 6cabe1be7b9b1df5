"""Noise with the spectrum of pictures and sounds, for users who have no inputs; `matched_noise.py` fits it to a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchthin.errors import InputError
from torchthin.graph.inputs import Inputs, sample_count


def noise_batches(like: Inputs, max_samples: int, size: int) -> Iterator[Inputs]:
    """Yield so many inputs of noise in batches of `size`; tensors that count no inputs are those of `like`."""
    generator = torch.Generator().manual_seed(0)
    samples = sample_count(like)
    for start in range(0, max_samples, size):
        count = min(size, max_samples - start)

        def change(tensor: Tensor, count: int = count) -> Tensor:
            batched = tensor.dim() and tensor.shape[0] == samples
            return noise_like(tensor, count, generator) if batched else tensor

        yield like.map(change)


def noise_like(example: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random inputs of the shape of `example`'s, with mean 0 expected and deviation 1 in each.

    The amplitudes of each input fall as ``1 / f**a`` over all axes after the channels, with an a of its own between 1 and
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
            "The calibration data 'noise' are floating point inputs. "
            f"The model takes {example.dtype}; give inputs of it."
        )
    white = torch.randn(count, *example.shape[1:], generator=generator)
    axes = [axis for axis in range(2, white.dim()) if white.shape[axis] > 1]
    if axes:
        slope = 1 + torch.rand(count, generator=generator)
        falling = _frequencies(white, axes)[None] ** -slope.view(-1, *[1] * (white.dim() - 1))
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
    return squares.sqrt().clamp_min(1 / max(white.shape[axis] for axis in axes))
