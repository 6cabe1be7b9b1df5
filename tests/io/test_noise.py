"""Law: noise has the form of the model's inputs and the spectrum of pictures, is the same every time, and mends without data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import InputError
from torchthin.graph.inputs import as_inputs
from torchthin.io.calibration import calibration
from torchthin.io.noise import noise_like


def drawn(example: Tensor, count: int = 64) -> Tensor:
    return noise_like(example, count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (2, 5, 40), (1, 2, 4, 8, 8), (4, 7), (3,), (1, 3, 1, 1)])
def test_form_deviation_and_repetition(shape: tuple[int, ...]) -> None:
    example = torch.zeros(shape, dtype=torch.float64)
    noise = drawn(example)
    assert noise.shape == (64, *shape[1:])
    assert noise.dtype == torch.float64
    assert torch.equal(noise, drawn(example))
    if max(shape[2:], default=1) > 1:
        torch.testing.assert_close(noise.flatten(1).std(1), torch.ones(64, dtype=torch.float64))
    assert abs(float(noise.mean())) < 0.3


def test_low_frequencies_are_strong() -> None:
    power = torch.fft.fft2(drawn(torch.zeros(1, 1, 32, 32), 256)).abs().square().mean((0, 1))
    by_frequency = torch.stack([power[0, 1], power[0, 2], power[0, 4], power[0, 8]])
    assert (
        by_frequency[:-1] / by_frequency[1:] > 2**1.5
    ).all()  # amplitudes as 1/f at least, so powers as 1/f**2
    torch.testing.assert_close(power[0, 1], power[1, 0], rtol=0.3, atol=0.0)


def test_whole_numbers_have_no_noise() -> None:
    with pytest.raises(InputError, match=r"are floating point inputs\. The model takes torch.int64"):
        calibration("noise", like=as_inputs(torch.zeros(1, 8, dtype=torch.int64)))


def test_limit_names_and_what_counts_no_inputs() -> None:
    like = as_inputs({"image": torch.zeros(2, 3, 8, 8), "table": torch.arange(5.0)})
    found = calibration("noise", like=like, max_samples=70)
    assert found.samples == 70
    assert [batch.kwargs["image"].shape[0] for batch in found.batches if batch.kwargs] == [32, 32, 6]
    assert all(
        torch.equal(batch.kwargs["table"], torch.arange(5.0)) for batch in found.batches if batch.kwargs
    )
    assert "noise" in found.notes[0]
    images = torch.cat([batch.kwargs["image"] for batch in found.batches if batch.kwargs])
    assert images.flatten(1).unique(dim=0).shape[0] == 70


def test_a_refit_on_noise_helps_on_inputs_of_another_kind() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 6, 3),
    )
    pictures = (
        (torch.rand(16, 3, 6, 6).round() * 2 - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )  # tiles
    plain = torchthin.prune(net, pictures[:1], 0.5)
    mended = torchthin.recover(net, plain, pictures[:1], "noise")

    @torch.no_grad()
    def off(model: nn.Module) -> float:
        wanted = net(pictures)
        return float((model(pictures) - wanted).square().mean() / wanted.var())

    assert off(mended.model) < 0.5 * off(plain.model)
    assert mended.report.recovery is not None
    assert any("noise" in note for note in mended.report.recovery.notes)
