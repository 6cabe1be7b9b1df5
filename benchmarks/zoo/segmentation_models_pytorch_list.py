"""Every decoder of segmentation-models-pytorch on some encoders, and every encoder under Unet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from zoo.candidates import Candidate, smallest_picture
from zoo.case import Inputs

ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-convnext_atto")


def found() -> Iterator[Candidate]:
    """Yield decoders on encoders, decoders first."""
    import segmentation_models_pytorch as smp

    decoders = list(smp.MODEL_ARCHITECTURES_MAPPING)
    for decoder in decoders:
        for encoder in ENCODERS:
            yield Candidate(f"{decoder} {encoder}", decoder, partial(_open, decoder, encoder))
    for encoder in smp.encoders.get_encoder_names():
        if encoder not in ENCODERS:
            yield Candidate(
                f"unet {encoder}", encoder.split("-")[0].rstrip("0123456789"), partial(_open, "unet", encoder)
            )


def _open(decoder: str, encoder: str) -> tuple[nn.Module, Inputs]:
    import segmentation_models_pytorch as smp

    model = smp.create_model(decoder, encoder_name=encoder, encoder_weights=None, classes=3).eval()
    return model, smallest_picture(model)
