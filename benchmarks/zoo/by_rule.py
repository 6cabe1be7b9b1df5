"""Tiny models of every architecture that transformers knows, their sizes set by rule from its own configuration classes.

    cd benchmarks
    python -m zoo.by_rule                           # which build and run, and how many
    python -m zoo.by_rule --prune --models 'qwen*'  # thinned by half, proved, trained a step, and generating with the cache
    python -m zoo.by_rule --prune --record rows.jsonl       # all; stopped, it goes on where it was

Nothing is listed by hand but standard names of fields: what is not among them follows rules for numbers. A class that the
rules do not fit is left out, and the command says why.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import vision_ops
from zoo.case import Inputs, randomise_, run, train_step
from zoo.records import Records, Row, table

WORDS, WIDTH, HEADS, SIDE, STEPS, LIMIT = 99, 64, 4, 32, 12, 3_000_000
SECONDS, REASON = 60, 300
"""What building and running a model may take, and characters of a reason that are kept."""
_NAMED: tuple[tuple[tuple[str, ...], int], ...] = (
    (("vocab_size",), WORDS),
    (("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    (("head_dim", "attention_head_dim", "d_kv", "kv_channels", "d_head", "v_head_dim"), WIDTH // HEADS),
    (("num_experts_per_tok", "top_k", "moe_topk", "moe_top_k", "num_experts_per_token"), 2),
    (("experts",), 4),
    (("n_group", "topk_group"), 1),
    (("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    (("attention_heads", "num_heads", "n_head", "n_heads", "decoder_heads", "encoder_heads"), HEADS),
    (("layers", "n_layer", "depth", "num_blocks"), 2),
    (("intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner", "feedforward", "mlp_dim", "d_ffn"), 2 * WIDTH),
    (("hidden_size", "d_model", "n_embd", "embed_dim", "hidden_dim", "projection_dim", "lru_width"), WIDTH),
    (("position_embeddings", "n_positions", "context_length", "max_source_positions", "max_target_positions"), 64),
    (("image_size", "crop_size"), SIDE),
    (("patch_size",), 8),
    (("mel_bins", "num_mel"), 16),
)  # fmt: skip
"""Ends of field names -> size. The first that fits holds."""
_TOKENS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "sep_token_id",
    "cls_token_id",
)
_AUTO = (
    "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_CTC_MAPPING", "MODEL_FOR_OBJECT_DETECTION_MAPPING", "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_MAPPING",
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A tiny model that was built and run."""

    name: str
    kind: str
    """The model's class."""
    config: Any
    inputs: Inputs

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model with random weights."""
        model = _built(self.kind, self.config, seed)
        randomise_(model)
        return model.eval()


def architectures(pattern: str = "*", done: Container[str] = ()) -> Iterator[Architecture | tuple[str, str]]:
    """Yield every architecture that builds and runs, but those that are `done`; of the others the name and why not."""
    vision_ops.define()  # transformers imports torchvision where it is installed
    import transformers
    from transformers.models.auto import modeling_auto

    transformers.logging.set_verbosity_error()
    mappings = [
        getattr(modeling_auto, name + "_NAMES") for name in _AUTO if hasattr(modeling_auto, name + "_NAMES")
    ]
    for name, config in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES.items():
        kinds = [mapping[name] for mapping in mappings if name in mapping]
        if not kinds or name in done or not fnmatchcase(name, pattern):
            continue
        errors = list[str]()
        for kind in dict.fromkeys(
            one for found in kinds for one in ([found] if isinstance(found, str) else found)
        ):
            try:
                with _time_limit(SECONDS):
                    yield _architecture(name, config, kind)
                break
            except Exception as error:  # whatever a class raises that the rules do not fit
                errors.append(f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
        else:
            yield name, errors[0]


def _architecture(name: str, config: str, kind: str) -> Architecture:
    import transformers

    errors = list[str]()
    for changes in ({}, {"num_key_value_heads": HEADS}, {"head_dim": WIDTH // HEADS}):
        try:
            tiny = tiny_config(getattr(transformers, config), changes)
            model = _built(kind, tiny, 0)
        except Exception as error:  # the next changes may fit
            errors.append(f"{type(error).__name__}: {error}")
            continue
        for inputs in _candidates(tiny):
            error = _error_on(model, inputs)
            if error is None:
                return Architecture(name, kind, tiny, inputs)
            errors.append(f"{', '.join(inputs)}: {error}")
    told = [error for error in errors if "missing" not in error and "unexpected keyword" not in error]
    raise ValueError((told or errors)[0])


def _error_on(model: nn.Module, inputs: Inputs) -> str | None:
    """Run a model; return what it raises."""
    try:
        with torch.no_grad():
            run(model.eval(), inputs)
    except TimeoutError:
        raise
    except Exception as error:  # whatever the model's code raises
        return f"{type(error).__name__}: {error}"
    return None


def tiny_config(kind: type, changes: Mapping[str, Any] | None = None) -> Any:
    """Return a configuration of a class with small sizes in place of its default ones."""
    return _shrunk(kind(), changes or {})


def _shrunk(config: Any, changes: Mapping[str, Any]) -> Any:
    from transformers import PreTrainedConfig

    fields = {name: getattr(config, name, None) for name in config.to_dict() if not name.startswith("_")}
    small = dict[str, Any]()
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = _shrunk(value, changes)
        elif isinstance(value, (list, tuple)) and value:
            small[name] = _shrunk_list(name, value)
        elif type(value) is int:
            small[name] = _size(name, value)
    small |= {name: value for name, value in changes.items() if name in fields}
    small = {name: value for name, value in small.items() if value != fields[name] or isinstance(value, int)}
    kinds = fields.get("layer_types") or fields.get("layers_block_type")
    if isinstance(kinds, list):
        small.update(_layers(fields, kinds))
    return type(config)(**small)


def _layers(fields: Mapping[str, Any], kinds: list[Any]) -> dict[str, Any]:
    """Return one layer of each kind, at least two."""
    chosen = [*dict.fromkeys(kinds)]
    chosen = chosen * 2 if len(chosen) == 1 else chosen
    lists = {
        name: chosen for name in ("layer_types", "layers_block_type") if isinstance(fields.get(name), list)
    }
    return {**lists, **({"num_hidden_layers": len(chosen)} if "num_hidden_layers" in fields else {})}


def _size(name: str, value: int) -> int:
    if name in _TOKENS:
        return _TOKENS.index(name) % 4
    if name.endswith(("_id", "_index", "_idx")) or value <= 0:
        return min(value, 5)
    for ends, size in _NAMED:
        if name.endswith(ends):
            return min(size, value)
    return value if value <= 16 else 16 if value <= 256 else 32


def _shrunk_list(name: str, values: list[Any] | tuple[Any, ...]) -> Any:
    """Return depths of one, widths divided by the same number; strings and what is small stay."""
    if not all(type(value) is int for value in values):
        return values
    if "depth" in name or "layers" in name or "blocks" in name:
        return type(values)(min(value, 1) for value in values)
    divisor = next((d for d in (16, 8, 4, 2) if min(values) // d >= 8 and all(v % d == 0 for v in values)), 1)
    return type(values)(value // divisor for value in values)


def _built(kind: str, config: Any, seed: int) -> nn.Module:
    import transformers

    config = copy.deepcopy(config)
    with torch.device("meta"):
        size = sum(p.numel() for p in getattr(transformers, kind)(copy.deepcopy(config)).parameters())
    if size > LIMIT:
        raise ValueError(f"{size} parameters: the rules did not make it small")
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, kind)(config)
    return model


def _ids(length: int = STEPS, seed: int = 1) -> Tensor:
    return torch.randint(6, WORDS, (2, length), generator=torch.Generator().manual_seed(seed))


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _candidates(config: Any) -> Iterator[dict[str, Tensor]]:
    """Yield inputs that the model may take: text, pictures, sound, and pairs of these."""
    side = _found(config, "image_size", SIDE)
    side = side if isinstance(side, int) else side[0]
    bands = next(
        (
            n
            for key in ("num_mel_bins", "input_feat_per_channel", "feature_size")
            if (n := _found(config, key, 0))
        ),
        16,
    )
    text, picture = (
        {"input_ids": _ids()},
        {"pixel_values": _normal(2, _found(config, "num_channels", 3) or 3, side, side)},
    )
    target = {"decoder_input_ids": _ids(7, seed=2)}
    yield text
    yield {**text, **target}
    yield picture
    yield {**text, **picture}
    for steps in (2 * _found(config, "max_source_positions", 64), 128, 1024):
        yield {"input_features": _normal(2, bands, steps), **target}
        yield {"input_features": _normal(2, steps, bands)}
        yield {"input_features": _normal(2, steps, bands), **target}
    yield {"input_values": _normal(2, 1600)}
    yield {"input_values": _normal(2, 64, bands)}
    yield {"input_values": _normal(2, 1, 1600)}
    yield {"pixel_values": _normal(2, 4, 3, side, side)}
    yield {"input_ids": _ids(64)}
    yield {"input_ids": _ids(), "bbox": torch.zeros(2, STEPS, 4, dtype=torch.long)}


def _found(config: Any, name: str, otherwise: Any) -> Any:
    """Return a field of a configuration, or of one that it holds."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))]
    return next((value for part in parts if (value := getattr(part, name, None)) is not None), otherwise)


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again: a search goes on after any error
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pruned(found: Architecture) -> Row:
    """Thin a model by half as it is called by default; return what came of it."""
    import torchthin
    from torchthin.selection.masks import apply_masks_

    model = found.build()
    started = time.perf_counter()
    result = torchthin.prune(model, found.inputs, 0.5, include=["*"])
    row: Row = {"seconds": round(time.perf_counter() - started, 1)}
    row["left"] = round(_parameters(result.model) / _parameters(model), 3)
    if result.proof is None:
        return {**row, "outcome": "not pruned", "reason": " ".join(result.report.notes)}
    row["verdict"] = result.proof.verdict
    grown = train_step(copy.deepcopy(model), found.inputs) - train_step(
        copy.deepcopy(result.model), found.inputs
    )
    if grown:
        return {**row, "outcome": "WRONG", "reason": f"no gradient for {sorted(grown)[:2]}"}
    if not (model.can_generate() and "input_ids" in found.inputs):  # type: ignore[operator]
        return {**row, "outcome": "ok"}
    masked = copy.deepcopy(model)
    apply_masks_(masked, result.masks)
    how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    given = {name: value for name, value in found.inputs.items() if not name.startswith("decoder")}
    try:
        expected = masked.generate(**given, **how)  # type: ignore[operator]
    except Exception:  # it does not generate as it is
        return {**row, "outcome": "ok"}
    same = torch.equal(expected, result.model.eval().generate(**given, **how))  # type: ignore[operator]
    if not same and row["verdict"] == "exact":
        return {**row, "outcome": "WRONG", "reason": "generates other tokens"}
    return {**row, "outcome": "ok", "generates": "the same" if same else "others"}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def measured(pattern: str, prune: bool, records: Records) -> None:
    """Add a row for every architecture that has none yet."""
    for found in architectures(pattern, records.names):
        if not isinstance(found, Architecture):
            row: Row = {"name": found[0], "outcome": "not built", "reason": found[1]}
        else:
            row = {"name": found.name, "class": found.kind}
            try:
                with _time_limit(3 * SECONDS):
                    row |= pruned(found) if prune else {"outcome": "runs", "inputs": list(found.inputs)}
            except Exception as error:  # to be shown
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                row |= {"outcome": "FAILED", "reason": reason}
        row = {**row, "reason": row["reason"][:REASON]} if "reason" in row else row
        records.add([row])
        print("  ".join(str(value) for value in row.values()), flush=True)


def main() -> int:
    """List what builds and runs, and with --prune what comes of a cut."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names, as in a shell")
    parser.add_argument("--prune", action="store_true", help="thin each by half as well")
    parser.add_argument("--record", type=Path, metavar="FILE", help="rows; names that have one are left out")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file of rows instead"
    )
    options = parser.parse_args()
    if options.table:
        print(table(Records(options.table).rows))
        return 0
    warnings.simplefilter("ignore")
    records = Records(options.record)
    measured(options.models, options.prune, records)
    for outcome, number in Counter(row["outcome"] for row in records.rows).most_common():
        print(f"{number:4} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
