"""Networks whose first maps are larger than data memory: which layers would have to stream, and descriptions that say so."""

from pathlib import Path

import pytest
import torch
import yaml
from networks import conv
from torch import nn

from torchthin import prune
from torchthin.errors import InputError, TargetMissedError
from torchthin.max7800x import chip_cost, save_for_synthesis
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dReLU, FusedMaxPoolConv2dReLU
from torchthin.max7800x.chips import MAX78000
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.cost.streaming import streaming_layers
from torchthin.max7800x.synthesis import ready_for_synthesis

IMAGES = torch.zeros(1, 3, 112, 96)
OWN = """\
arch: faces
dataset: mine
layers:
  - processors: 0x0000000000000007
    out_offset: 0x2000
    operation: conv2d
    kernel_size: 3x3
    pad: 1
    activate: ReLU
    streaming: true  # a few rows
  - processors: 0x0000000000ffff00
    in_offset: 0x2000
    out_offset: 0x0000
    operation: conv2d
    max_pool: 2
    pool_stride: 2
    kernel_size: 3x3
    pad: 1
    activate: ReLU
    streaming: true
  - processors: 0x00000000ffffffff
    output_processors: 0x000000000000ffff
    out_offset: 0x4000
    operation: conv2d
    max_pool: 2
    pool_stride: 2
    kernel_size: 3x3
    pad: 1
    activate: ReLU
  - processors: 0x000000000000ffff
    output_processors: 0x00000000000000ff
    out_offset: 0x0000
    operation: conv2d
    kernel_size: 1x1
    pad: 0
"""


def faces() -> nn.Module:
    """The first layers of a face network: a map of 112x96 does not fit."""
    torch.manual_seed(0)
    return nn.Sequential(
        FusedConv2dReLU(3, 16, 3, padding=1),
        FusedMaxPoolConv2dReLU(16, 32, 3, padding=1),
        FusedMaxPoolConv2dReLU(32, 16, 3, padding=1),
        Conv2d(16, 8, 1),
    ).eval()


def own(folder: Path, text: str = OWN) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_the_layers_that_would_have_to_stream_are_named(tmp_path: Path) -> None:
    report = chip_cost(faces(), IMAGES)
    assert not report.fits
    assert report.cost.streams == ("0", "1")
    assert "All maps fit once the first layers stream (0, 1)." in str(report)
    with pytest.raises(TargetMissedError, match="`streaming: true` at these, and offsets of your choice"):
        save_for_synthesis(faces(), IMAGES, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_streams_where_it_does_not_help() -> None:
    assert chip_cost(faces(), torch.zeros(1, 3, 64, 64)).cost.streams == ()
    late = [
        conv(64, 64, 16, name="a"),
        conv(64, 64, 16, source=0, name="b"),
        conv(64, 64, 100, source=1, name="c"),
    ]
    assert streaming_layers(late, MAX78000) is None  # the last map is too large itself
    skip = [
        conv(16, 16, 100, name="a"),
        conv(16, 16, 100, source=0, name="b"),
        conv(16, 16, 16, source=0, name="c"),
    ]
    assert streaming_layers(skip, MAX78000) is None  # a map that is read again later is needed whole


def test_a_description_that_streams_is_corrected_where_it_was(tmp_path: Path) -> None:
    thin = prune(faces(), IMAGES, 0.25, exclude=["3*"]).model
    made = ready_for_synthesis(thin, IMAGES, tmp_path, description=own(tmp_path))
    layers = yaml.safe_load(made.text)["layers"]
    assert [hex(one["processors"]) for one in layers] == ["0x7", "0xfff00", "0xffffff", "0xfff"]
    assert [one.get("output_processors") for one in layers] == [None, None, 0xFFF, 0xFF]
    before = yaml.safe_load(OWN)["layers"]
    for key in ("in_offset", "out_offset", "streaming"):
        assert [one.get(key) for one in layers] == [one.get(key) for one in before]
    assert "# a few rows" in made.text
    assert made.network.max_error < 1e-6


def test_a_layer_that_streams_takes_half_as_long_again(tmp_path: Path) -> None:
    made = ready_for_synthesis(faces(), IMAGES, tmp_path, description=own(tmp_path))
    assert made.changes == ()
    mapped = made.network.mapping.layers
    whole = [row.cycles for row in network_cost(mapped, MAX78000).layers]
    rows = made.network.report.cost
    assert [row.cycles for row in rows.layers] == [int(1.5 * whole[0]), int(1.5 * whole[1]), *whole[2:]]
    assert not rows.cycles_exact


def test_a_map_within_a_data_memory_takes_slots_for_what_lies_before_it(tmp_path: Path) -> None:
    inside = OWN.replace("output_processors: 0x000000000000ffff", "output_processors: 0x000000000003fffc")
    inside = inside.replace("- processors: 0x000000000000ffff", "- processors: 0x000000000003fffc")
    usual, moved = (
        ready_for_synthesis(
            faces(), IMAGES, tmp_path, description=own(tmp_path, text)
        ).network.report.cost.layers[2]
        for text in (OWN, inside)
    )
    assert (usual.output_slots, moved.output_slots) == (16, 18)
    assert moved.cycles - usual.cycles == 2 * 28 * 24  # two more slots at every pixel


def test_streaming_too_few_layers_does_not_fit(tmp_path: Path) -> None:
    less = OWN.replace("    streaming: true\n", "", 1)
    assert less.count("streaming") == 1
    with pytest.raises(TargetMissedError, match="a map of 112x96 from 0 takes"):
        ready_for_synthesis(faces(), IMAGES, tmp_path, description=own(tmp_path, less))


def test_only_a_chain_streams(tmp_path: Path) -> None:
    every = OWN.replace(
        "    pad: 1\n    activate: ReLU\n  -", "    pad: 1\n    activate: ReLU\n    streaming: true\n  -"
    )
    every = (
        every.replace("    streaming: true\n    streaming: true", "    streaming: true")
        + "    streaming: true\n"
    )
    with pytest.raises(
        InputError, match="The first 4 layers cannot stream: they must be a chain from the input, followed"
    ):
        ready_for_synthesis(faces(), IMAGES, tmp_path, description=own(tmp_path, every))
