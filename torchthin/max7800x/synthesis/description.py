"""The network description of ai8xize.py as data: one mapping for each layer, keys as in its YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from torchthin.errors import InputError
from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import INPUT, Layer, Size, passes
from torchthin.max7800x.cost.network import LayerCost, NetworkCost
from torchthin.max7800x.synthesis.addresses import Address, addresses

Entry = dict[str, Any]
OFFSETS = ("in_offset", "out_offset")
MASKS = ("processors", "output_processors")
"""One bit for each processor."""
DEFAULTS: Entry = {
    "read_gap": 0,
    "write_gap": 0,
    "pool_dilation": 1,
    "pool_first": True,
    "operands": 2,
    "flatten": False,
    "dilation": 1,
    "groups": 1,
    "quantization": 8,
    "output_width": 8,
    "output": False,
}
"""What ai8xize.py assumes for a key that is left out."""


def entries(
    layers: Sequence[Layer], cost: NetworkCost, chip: ChipSpec, outputs: Sequence[int]
) -> tuple[Entry, ...]:
    """Return the description of every layer.

    Args:
        layers: a network that fits.
        cost: where it lies.
        chip: where it runs.
        outputs: numbers of the layers whose maps are the network's outputs.

    Raises:
        InputError: a description cannot say it; the message names the layer.
    """
    several = tuple(outputs) != (len(layers) - 1,)
    rows = zip(cost.layers, addresses(layers, cost, chip, outputs), strict=True)
    return tuple(
        _entry(number, layers, row, address, chip, several and number in outputs)
        for number, (row, address) in enumerate(rows)
    )


def processor_mask(first: int, count: int, step: int = 1) -> int:
    """Return a mask with one bit for each processor.

    >>> hex(processor_mask(4, 8)), hex(processor_mask(0, 3, 4))
    ('0xff0', '0x111')
    """
    return sum(1 << (first + step * number) for number in range(count))


def _entry(
    number: int, layers: Sequence[Layer], row: LayerCost, address: Address, chip: ChipSpec, output: bool
) -> Entry:
    layer = layers[number]
    source = layer.sources[0]
    sources = source if len(layer.sources) == 1 else list(layer.sources)
    resized = source != INPUT and layers[source].out_size != layer.in_size
    pools = layer.pool != (1, 1) or layer.pool_stride != (1, 1)
    pool = _one(layer, layer.pool) if pools else None
    convolves, sequence = layer.kind.startswith("conv"), layer.kind == "conv1d"
    kernel = layer.kernel[0] if sequence else f"{layer.kernel[0]}x{layer.kernel[1]}"
    if convolves and not sequence and layer.padding[0] != layer.padding[1]:
        raise InputError(
            f"{layer.name}: padding {layer.padding[0]} x {layer.padding[1]}; a network description has one for both axes."
        )
    activation = {"relu": "ReLU", "abs": "Abs", None: "None"}[layer.activation]
    said: Entry = {
        "processors": processor_mask(row.first_processor, row.processors, row.processor_step),
        "output_processors": processor_mask(row.output_processor, passes(layer.out_channels, chip)[1]),
        "in_offset": address.in_offset,
        "out_offset": address.out_offset,
        "read_gap": address.read_gap,
        "write_gap": address.write_gap,
        "in_sequences": None if layer.sources == (number - 1,) else sources,
        "data_format": None if number else "CHW" if row.processor_step > 1 else "HWC",
        "in_dim": list(layer.in_size) if resized else None,
        "max_pool": pool if layer.pool_mode == "max" else None,
        "avg_pool": pool if layer.pool_mode == "average" else None,
        "pool_stride": _one(layer, layer.pool_stride) if pools else None,
        "pool_dilation": _one(layer, layer.pool_dilation),
        "pool_first": layer.pool_first or layer.operands == 1 or not layer.pools,
        "eltwise": layer.eltwise,
        "operands": layer.operands if layer.eltwise else None,
        "op": layer.kind,
        "flatten": layer.flatten,
        "kernel_size": kernel if convolves else None,
        "pad": layer.padding[0] if convolves else None,
        "dilation": layer.dilation[0] if convolves else None,
        "groups": layer.conv_groups,
        "activate": activation if layer.has_weights else None,
        "quantization": layer.weight_bits,
        "output_width": 32 if layer.wide else 8,
        "output": output,
    }
    return {key: value for key, value in said.items() if value is not None and value != DEFAULTS.get(key)}


def _one(layer: Layer, size: Size) -> int | list[int]:
    """Return a size as one number where both are equal, or where there is one axis."""
    return size[0] if layer.one_axis or size[0] == size[1] else list(size)


def description_text(
    layers: Sequence[Layer],
    described: Sequence[Mapping[str, Any]],
    head: Mapping[str, str],
    remarks: Sequence[str],
) -> str:
    """Return the YAML text: remarks, `arch` and `dataset`, then the layers, each with its name above it."""
    lines = ["---", *(f"# {remark}" for remark in remarks)]
    lines += [f"{key}: {_scalar(key, value)}" for key, value in head.items()]
    lines += ["", "layers:"]
    for number, (layer, entry) in enumerate(zip(layers, described, strict=True)):
        lines.append(f"  # {number}: {layer.name}, {layer.in_channels} -> {layer.out_channels}")
        for position, (key, value) in enumerate(entry.items()):
            lines.append(f"  {' ' if position else '-'} {key}: {_scalar(key, value)}")
    return "\n".join(lines) + "\n"


def _scalar(key: str, value: Any) -> str:
    if key in MASKS:
        return f"0x{value:016x}"
    if key in OFFSETS:
        return f"0x{value:04x}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if not isinstance(value, str):
        return str(value)
    return value if yaml.safe_load(value) == value else repr(value)
