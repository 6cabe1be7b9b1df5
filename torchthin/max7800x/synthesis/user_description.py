"""A corrected copy of the user's own network description, with its comments and its order.

What the model decides (operators, kernels, pooling, activation, sources) must be there already, in any of the spellings that
ai8xize.py reads: where it differs the copy is refused, since one of the two is wrong. What the widths decide (processors,
offsets, channels, gaps) is set.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.config.files import read_text, read_yaml
from torchthin.errors import InputError, one_line
from torchthin.max7800x.synthesis.description import DEFAULTS, MASKS, OFFSETS, Entry
from torchthin.max7800x.synthesis.layout import Layout, mask_number, with_processors

if TYPE_CHECKING:
    from torchthin.max7800x.synthesis.network import ChipNetwork

_TOP = {"arch", "dataset", "layers", "output_map"}
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "op": ("op", "operation", "operator", "convolution"),
    "activate": ("activate", "activation"),
    "groups": ("groups", "conv_groups"),
    "read_gap": ("read_gap", "in_skip"),
}
_NOT_PLACED = {
    *("buffer_shift", "buffer_insert", "next_sequence", "snoop_sequence", "simulated_sequence"),
    *("bypass", "in_crop", "in_channel_skip", "weight_source", "calcx4", "readahead", "tcalc", "bias_group"),
    "bias_quadrant",
}
"""Keys that move maps, or take layers out of their order, in ways that `torchthin.max7800x.cost` does not place."""
_ALWAYS = (*MASKS, *OFFSETS)
_WHERE_NEEDED = ("write_gap", "read_gap", "in_dim", "data_format", "quantization", "output")
_OPERATIONS = {"fc": "linear", "mlp": "linear", "none": "passthrough"}
_ELTWISE = {
    **{name: name for name in ("add", "sub", "xor", "or")},
    "bitwiseor": "or",
    "bitwise_or": "or",
    "bitwisexor": "xor",
    "bitwise_xor": "xor",
}
_COMMUTE = ("add", "xor", "or")


def read_description(path: str | Path) -> dict[str, Any]:
    """Return a description as plain data.

    Raises:
        InputError: it cannot be read, or does not describe a network.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise InputError(
            f"The network description {path} cannot be read: {error.strerror}. Check --synthesis-yaml."
        ) from error
    except ValueError as error:
        raise InputError(f"The network description {path} must be YAML. {one_line(error)}.") from error
    layers = content.get("layers") if isinstance(content, dict) else None
    if not isinstance(layers, list) or not all(isinstance(one, dict) for one in layers):
        raise InputError(
            f"The network description {path} must have a list `layers` of mappings, as ai8xize.py reads it."
        )
    unknown = sorted(set(content) - _TOP)
    if unknown:
        raise InputError(
            f"The network description {path} has `{unknown[0]}`, which is not corrected; leave it out and add it afterwards."
        )
    return dict(content)


def corrected_text(path: str | Path, network: ChipNetwork) -> tuple[str, tuple[str, ...]]:
    """Return the corrected copy, and what it says differently, a line for each layer.

    Raises:
        InputError: the description is not one of this model, or ruamel.yaml is missing; the layer is named.
    """
    _compare(read_description(path)["layers"], network, str(path))
    editor = _editor()
    content = editor.load(read_text(path))
    content.pop("output_map", None)  # the last layer says it itself
    changes = []
    names = _numbers_of(content["layers"])
    streams = Layout.of_description(content["layers"], str(path)).streaming > 0
    for layer, entry, wanted in zip(network.mapping.layers, content["layers"], network.entries, strict=True):
        wanted = _where_it_was(entry, wanted, last=entry is content["layers"][-1]) if streams else wanted
        changed = _correct(entry, wanted, layer.in_channels, layer.out_channels)
        if layer.operands > 1 and _sources(entry, 0, names) != layer.sources:
            entry["in_sequences"] = list(layer.sources)  # a sum the other way round: offsets follow the model
            changed.append(f"in_sequences {list(layer.sources)}")
        if changed:
            changes.append(f"{layer.name}: {', '.join(changed)}")
    text = io.StringIO()
    editor.dump(content, text)
    return text.getvalue(), tuple(changes)


def _editor() -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError as error:
        raise InputError(
            "A corrected copy of a network description needs ruamel.yaml. Install torchthin[synthesis]."
        ) from error
    editor = YAML()
    editor.preserve_quotes = True
    editor.explicit_start = True
    editor.width = 200
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor


def _compare(layers: Sequence[Entry], network: ChipNetwork, path: str) -> None:
    """Raise InputError at the first layer that says something else than the model."""
    mapped = network.mapping.layers
    names = _numbers_of(layers)
    for number, (said, wanted) in enumerate(zip(layers, network.entries, strict=False)):
        layer = mapped[number]
        where = f"{path}, layer {number} ({layer.name})"
        unplaced = sorted(_NOT_PLACED & set(said))
        if unplaced:
            raise InputError(
                f"{where}: `{unplaced[0]}` is not placed by torchthin; take it out of this layer, or write the description "
                "without --synthesis-yaml."
            )
        theirs, ours = (_meaning(one, number, layer.one_axis, names) for one in (said, wanted))
        for key in ours:
            if theirs[key] != ours[key]:
                raise InputError(f"{where}: {key} is {theirs[key]}; the model has {ours[key]}.")
    if len(layers) != len(mapped):
        all_names = ", ".join(layer.name for layer in mapped)
        raise InputError(
            f"{path}: {len(layers)} layers; the model has {len(mapped)} on the chip: {all_names}."
        )


def _meaning(entry: Entry, number: int, one_axis: bool, names: Mapping[str, int]) -> Entry:
    """Return what a layer does, however its description spells it; offsets and processors left out.

    Args:
        entry: of the description.
        number: of the layer.
        one_axis: it works on sequences, so that only the first of two sizes counts.
        names: of the layers, in small letters, with their numbers.
    """
    given = str(entry.get(_spelled(entry, "op"), "conv2d")).lower()
    alone = given in _ELTWISE  # an operation of its own, without a convolution
    op = "passthrough" if alone else _OPERATIONS.get(given, given)
    eltwise = _ELTWISE[given] if alone else entry.get("eltwise")
    eltwise = None if eltwise is None else str(eltwise).lower()
    convolves, kernel = op.startswith("conv"), 9 if op == "conv1d" else "3x3"
    pools = [key for key in ("max_pool", "avg_pool") if key in entry]

    def pair(key: str, counts: bool) -> tuple[Any, ...]:
        value = entry.get(key, 1) if counts else 1
        both = tuple(value) if isinstance(value, list) else (value, value)
        return (both[0], 1) if one_axis else both

    stride = entry.get("stride", 1)
    read = _sources(entry, number, names)
    return {
        "op": op,
        "kernel_size": str(entry.get("kernel_size", kernel)).lower() if convolves else "",
        "pad": entry.get("pad", 1 if convolves else 0),
        "dilation": pair("dilation", convolves),
        "max_pool": pair("max_pool", True) if "max_pool" in pools else None,
        "avg_pool": pair("avg_pool", True) if "avg_pool" in pools else None,
        "pool_stride": pair("pool_stride", bool(pools)),
        "pool_dilation": pair("pool_dilation", bool(pools)),
        "eltwise": eltwise,
        "operands": entry.get("operands", DEFAULTS["operands"]) if eltwise else 1,
        **{key: bool(entry.get(key, DEFAULTS[key])) for key in ("pool_first", "flatten")},
        "activate": str(entry.get(_spelled(entry, "activate"), "none")).lower(),
        "output_width": entry.get("output_width", DEFAULTS["output_width"]),
        "stride": 2 if op == "convtranspose2d" else stride[0] if isinstance(stride, list) else stride,
        "sequence": entry.get("sequence", number),
        "in_sequences": tuple(sorted(read, key=str)) if eltwise in _COMMUTE else read,
    }


def _sources(entry: Entry, number: int, names: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the numbers of the layers that are read."""
    given = entry.get("in_sequences", number - 1)
    parts = given if isinstance(given, list) else [given]
    return tuple(names.get(part.lower(), part) if isinstance(part, str) else part for part in parts)


def _numbers_of(layers: Sequence[Entry]) -> dict[str, int]:
    """Return the numbers of the layers that have names, by name in small letters; the network's input is -1."""
    found = {str(one["name"]).lower(): number for number, one in enumerate(layers) if "name" in one}
    return {**found, "input": -1}


def _where_it_was(entry: Entry, wanted: Entry, *, last: bool) -> Entry:
    """Return what is to be set where layers stream: offsets, gaps and first processors are the user's choice and stay."""
    kept = {key: entry.get(key) for key in (*OFFSETS, "write_gap", "read_gap", "in_dim", "data_format")}
    masks: Entry = {
        key: with_processors(mask_number(entry[key]), wanted[key].bit_count())
        for key in MASKS
        if key in entry
    }
    if not last:  # without it a layer writes for the processors of the next one
        masks = {"output_processors": None, **masks}
    return {**wanted, **kept, **masks}


def _correct(entry: Any, wanted: Entry, inputs: int, outputs: int) -> list[str]:
    """Set in a layer of the user's what widths decide; return a text for each change."""
    channels = {"in_channels": inputs, "out_channels": outputs, "groups": wanted.get("groups")}
    values = {
        **{key: wanted[key] for key in _ALWAYS},
        **{key: wanted.get(key) for key in _WHERE_NEEDED},
        **{key: value for key, value in channels.items() if _spelled(entry, key) in entry},
    }
    changed = []
    for key, value in values.items():
        name = _spelled(entry, key)
        before = entry.get(name)
        if _same(key, before, value):
            continue
        if value is None:
            del entry[name]
        else:
            entry[name] = _as_written(key, value)
        changed.append(f"{name} {_shown(key, before)} -> {_shown(key, value)}")
    return changed


def _spelled(entry: Entry, key: str) -> str:
    """Return how the user's description spells a key."""
    return next((name for name in _SPELLINGS.get(key, ()) if name in entry), key)


def _same(key: str, before: Any, value: Any) -> bool:
    if key in MASKS and isinstance(before, str):
        before = mask_number(before)
    if key == "data_format" and isinstance(before, str):
        before = {"big": "CHW", "little": "HWC"}.get(before.lower(), before.upper())
    return bool(before == value) or (before in (None, 0, False) and value is None)


def _as_written(key: str, value: Any) -> Any:
    from ruamel.yaml.scalarint import HexInt

    if key in MASKS:
        return HexInt(value, width=16)
    return HexInt(value, width=4) if key in OFFSETS else value


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, int) and not isinstance(value, bool) and key in _ALWAYS:
        return f"0x{value:x}"
    return str(value)
