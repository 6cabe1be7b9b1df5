"""A corrected copy of the user's own network description: comments and order stay; what is of another model is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthesis_networks import network

from torchthin.errors import InputError
from torchthin.max7800x.synthesis import ready_for_synthesis

OWN = """\
---
# my network, with my remarks
arch: Mine
dataset: CIFAR10

layers:
  # the stem
  - out_offset: 0x2000
    processors: 0x0000000000000007  # three colours
    operation: conv2d
    kernel_size: 3x3
    pad: 1
    activate: ReLU
    data_format: HWC
    name: stem
  # copied
  - operation: none
    processors: 0x.ffff.ff
    output_processors: 0x0000000000ffffff
    out_offset: 0
    write_gap: 1
  - in_sequences: stem
    in_offset: 0x2000
    out_offset: 4
    processors: 0xffffff
    write_gap: 1
    op: Conv2d
    kernel_size: '3x3'
    pad: 1
    activation: relu
    out_channels: 999
  - in_sequences: [1, 2]
    in_offset: 0
    out_offset: 0x2000
    processors: 0xffffff
    eltwise: add
    op: conv2d
    max_pool: 2
    pool_stride: 2
    pool_first: false
    activate: ReLU
  - op: conv2d
    processors: 0xffffff
    kernel_size: 1x1
    pad: 0
    activate: ReLU
  - flatten: true
    op: mlp
    processors: 0xffff
    output_width: 32
"""


def ready(folder: Path, text: str) -> Any:
    model, images = network("ai8x_residual")
    own = folder / "own.yaml"
    own.write_text(text)
    return ready_for_synthesis(model, images, folder, description=own)


def test_the_copy_is_corrected_and_keeps_comments_and_order(tmp_path: Path) -> None:
    made = ready(tmp_path, OWN)
    content = yaml.safe_load(made.text)
    for entry, wanted in zip(content["layers"], made.network.entries, strict=True):
        for key in ("processors", "output_processors", "in_offset", "out_offset"):
            assert entry[key] == wanted[key]
        assert entry.get("write_gap", 0) == wanted.get("write_gap", 0)
    assert content["layers"][2]["out_channels"] == 20
    comments = [line for line in OWN.splitlines() if "#" in line]
    assert [line for line in made.text.splitlines() if "#" in line] == comments
    for entry, own in zip(content["layers"], yaml.safe_load(OWN)["layers"], strict=True):
        assert [key for key in entry if key in own] == [key for key in own if key in entry]
    assert "processors: 0x0000000000000007" in made.text
    assert made.contents["arch"] == "Mine"
    assert any(change.startswith("conv2: ") and "out_channels 999 -> 20" in change for change in made.changes)


def test_a_copy_of_the_copy_changes_nothing(tmp_path: Path) -> None:
    once = ready(tmp_path, OWN).text
    twice = ready(tmp_path, once)
    assert (twice.text, twice.changes) == (once, ())


@pytest.mark.parametrize(
    ("there", "instead", "message"),
    [
        ("kernel_size: 1x1", "kernel_size: 3x3", "layer 4 (conv4): kernel_size is 3x3; the model has 1x1"),
        ("max_pool: 2", "avg_pool: 2", "layer 3 (conv3): max_pool is None; the model has (2, 2)"),
        ("pool_stride: 2", "pool_stride: 1", "layer 3 (conv3): pool_stride is (1, 1); the model has (2, 2)"),
        ("eltwise: add", "eltwise: sub", "layer 3 (conv3): eltwise is sub; the model has add"),
        ("activation: relu", "activation: none", "layer 2 (conv2): activate is none; the model has relu"),
        ("in_sequences: stem", "in_sequences: 1", "layer 2 (conv2): in_sequences is (1,); the model has (0,)"),
        ("output_width: 32", "output_width: 8", "layer 5 (fc): output_width is 8; the model has 32"),
        ("op: mlp", "op: conv1d", "layer 5 (fc): op is conv1d; the model has linear"),
        ("    data_format: HWC", "    calcx4: true", "layer 0 (conv1): `calcx4` is not placed by torchthin"),
        ("  # copied\n  -", "  - streaming: true\n   ", "`streaming` must be at the first layers, at most 8, without a gap"),
        ("  # copied\n", "  - op: none\n    processors: 1\n", "layer 2 (conv2): op is passthrough; the model has conv2d"),
        ("dataset: CIFAR10", "dataset: a\nsnoop: 1", "has `snoop`, which is not corrected"),
        ("layers:", "layer:", "must have a list `layers`"),
        ("layers:", "layers: [", "must be YAML"),
    ],
)  # fmt: skip
def test_a_description_of_another_model_is_refused(
    there: str, instead: str, message: str, tmp_path: Path
) -> None:
    assert there in OWN
    with pytest.raises(InputError) as caught:
        ready(tmp_path, OWN.replace(there, instead, 1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_missing_layers_are_named(tmp_path: Path) -> None:
    content = copy.deepcopy(yaml.safe_load(OWN))
    content["layers"].pop()
    with pytest.raises(InputError, match="5 layers; the model has 6 on the chip: conv1, copy of conv1"):
        ready(tmp_path, yaml.safe_dump(content))
