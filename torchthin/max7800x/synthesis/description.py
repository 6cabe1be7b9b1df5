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
    where = addresses(layers, cost, chip, outputs)
    several = tuple(outputs) != (len(layers) - 1,)
    found = []
    for number, (layer, row, address) in enumerate(zip(layers, cost.layers, where, strict=True)):
        entry = {
            **_places(layer, row, address, chip),
            **_sources(number, layer, layers),
            **_input(number, layer, row, layers),
            **_pooling(layer),
            **_operation(layer),
        }
        if several and number in outputs:
            entry["output"] = True
        found.append(entry)
    return tuple(found)


def processor_mask(first: int, count: int, step: int = 1) -> int:
    """Return a mask with one bit for each processor.

    >>> hex(processor_mask(4, 8)), hex(processor_mask(0, 3, 4))
    ('0xff0', '0x111')
    """
    return sum(1 << (first + step * number) for number in range(count))


def _places(layer: Layer, row: LayerCost, address: Address, chip: ChipSpec) -> Entry:
    entry = {
        "processors": processor_mask(row.first_processor, row.processors, row.processor_step),
        "output_processors": processor_mask(row.output_processor, passes(layer.out_channels, chip)[1]),
        "in_offset": address.in_offset,
        "out_offset": address.out_offset,
    }
    gaps = {"read_gap": address.read_gap, "write_gap": address.write_gap}
    return {**entry, **{name: gap for name, gap in gaps.items() if gap}}


def _sources(number: int, layer: Layer, layers: Sequence[Layer]) -> Entry:
    if layer.sources == (number - 1,):
        return {}
    return {"in_sequences": layer.sources[0] if len(layer.sources) == 1 else list(layer.sources)}


def _input(number: int, layer: Layer, row: LayerCost, layers: Sequence[Layer]) -> Entry:
    entry: Entry = {}
    if number == 0:
        entry["data_format"] = "CHW" if row.processor_step > 1 else "HWC"
    source = layer.sources[0]
    if source != INPUT and layers[source].out_size != layer.in_size:
        entry["in_dim"] = list(layer.in_size)
    return entry


def _pooling(layer: Layer) -> Entry:
    if layer.pool == (1, 1) and layer.pool_stride == (1, 1):
        return {}
    name = "max_pool" if layer.pool_mode == "max" else "avg_pool"
    entry = {name: _one(layer, layer.pool), "pool_stride": _one(layer, layer.pool_stride)}
    if layer.pool_dilation != (1, 1):
        entry["pool_dilation"] = _one(layer, layer.pool_dilation)
    if not layer.pool_first and layer.operands > 1 and layer.pools:
        entry["pool_first"] = False
    return entry


def _one(layer: Layer, size: Size) -> int | list[int]:
    """Return a size as one number where both are equal, or where there is one axis."""
    return size[0] if layer.one_axis or size[0] == size[1] else list(size)


def _operation(layer: Layer) -> Entry:
    entry: Entry = {}
    if layer.eltwise is not None:
        entry["eltwise"] = layer.eltwise
        if layer.operands > 2:
            entry["operands"] = layer.operands
    entry["op"] = layer.kind
    if layer.kind == "passthrough":
        return entry
    if layer.kind == "linear":
        entry |= {"flatten": True} if layer.flatten else {}
    else:
        entry |= _kernel(layer)
    if layer.depthwise:
        entry["groups"] = layer.conv_groups
    entry["activate"] = {"relu": "ReLU", "abs": "Abs", None: "None"}[layer.activation]
    if layer.weight_bits != 8:
        entry["quantization"] = layer.weight_bits
    if layer.wide:
        entry["output_width"] = 32
    return entry


def _kernel(layer: Layer) -> Entry:
    flat = layer.kind == "conv1d"
    if not flat and layer.padding[0] != layer.padding[1]:
        raise InputError(
            f"{layer.name}: padding {layer.padding[0]} x {layer.padding[1]}; a network description has one for both axes."
        )
    size = layer.kernel[0] if flat else f"{layer.kernel[0]}x{layer.kernel[1]}"
    entry: Entry = {"kernel_size": size, "pad": layer.padding[0]}
    if layer.dilation[0] != 1:
        entry["dilation"] = layer.dilation[0]
    return entry


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
