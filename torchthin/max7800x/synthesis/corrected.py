"""A corrected copy of the user's own network description, with its comments and its order.

What the model decides (operators, kernels, pooling, activation, sources) must be there already: where it differs the copy is
refused, since one of the two is wrong. What the widths decide (processors, offsets, channels, gaps) is set.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from torchthin.errors import InputError, one_line
from torchthin.max7800x.synthesis.description import ADDRESSES, MASKS
from torchthin.max7800x.synthesis.spelling import ALIASES, UNPLACED, meaning, numbers_of, sources

if TYPE_CHECKING:
    from torchthin.max7800x.synthesis.network import ChipNetwork

_ALWAYS = (*MASKS, *ADDRESSES)
_WHERE_NEEDED = ("write_gap", "read_gap", "in_dim", "data_format", "quantization", "output")
_GIVEN = ("in_channels", "out_channels", "groups")
_TOP = {"arch", "dataset", "layers", "output_map"}


def stated(path: str | Path) -> dict[str, Any]:
    """Return a description as plain data.

    Raises:
        InputError: it cannot be read, or is none of a network.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"The network description {path} cannot be read: {error.strerror}. Check --synthesis-yaml."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    _compare(stated(path)["layers"], network, str(path))
    editor = _editor()
    content = editor.load(Path(path).read_text(encoding="utf-8"))
    content.pop("output_map", None)  # the last layer says it itself
    changes = []
    names = numbers_of(content["layers"])
    for layer, entry, wanted in zip(network.mapping.layers, content["layers"], network.entries, strict=True):
        changed = _correct(entry, wanted, layer.in_channels, layer.out_channels)
        if layer.operands > 1 and sources(entry, 0, names) != layer.sources:
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


def _compare(layers: Sequence[Mapping[str, Any]], network: ChipNetwork, path: str) -> None:
    """Raise InputError at the first layer that says something else than the model."""
    mapped = network.mapping.layers
    names = numbers_of(layers)
    for number, (said, wanted) in enumerate(zip(layers, network.entries, strict=False)):
        where = f"{path}, layer {number} ({mapped[number].name})"
        unplaced = sorted(UNPLACED & set(said))
        if unplaced:
            raise InputError(
                f"{where}: `{unplaced[0]}` is not placed by torchthin; take it out of this layer, or write the description "
                "without --synthesis-yaml."
            )
        flat = mapped[number].kind == "conv1d" or mapped[number].in_size[1] == 1
        theirs = meaning(said, number, flat, names)
        ours = meaning(wanted, number, flat, names)
        for key in ours:
            if theirs[key] != ours[key]:
                raise InputError(f"{where}: {key} is {theirs[key]}; the model has {ours[key]}.")
    if len(layers) != len(mapped):
        all_names = ", ".join(layer.name for layer in mapped)
        raise InputError(
            f"{path}: {len(layers)} layers; the model has {len(mapped)} on the chip: {all_names}."
        )


def _correct(entry: Any, wanted: Mapping[str, Any], inputs: int, outputs: int) -> list[str]:
    """Set in a layer of the user's what widths decide; return what changed, in words."""
    values = {key: wanted[key] for key in _ALWAYS}
    values |= {key: wanted.get(key) for key in _WHERE_NEEDED}
    channels = {"in_channels": inputs, "out_channels": outputs, "groups": wanted.get("groups")}
    values |= {key: channels[key] for key in _GIVEN if _spelled(entry, key) in entry}
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


def _spelled(entry: Mapping[str, Any], key: str) -> str:
    """Return how the user's description spells a key."""
    return next((alias for alias in ALIASES.get(key, ()) if alias in entry), key)


def _same(key: str, before: Any, value: Any) -> bool:
    if key in MASKS and isinstance(before, str):
        before = int(before.replace(".", "").replace("_", ""), 16)
    if key == "data_format" and isinstance(before, str):
        before = {"big": "CHW", "little": "HWC"}.get(before.lower(), before.upper())
    return bool(before == value) or (before in (None, 0, False) and value is None)


def _as_written(key: str, value: Any) -> Any:
    from ruamel.yaml.scalarint import HexInt

    if key in MASKS:
        return HexInt(value, width=16)
    return HexInt(value, width=4) if key in ADDRESSES else value


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, int) and not isinstance(value, bool) and key in _ALWAYS:
        return f"0x{value:x}"
    return str(value)
