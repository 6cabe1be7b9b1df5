"""A folder of a model of transformers: its configuration, class and weights, with what is wrong said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchthin.config.files import parse_json
from torchthin.errors import CheckpointError, ConfigError, one_line
from torchthin.io.pretrained.quiet import quiet_transformers


def open_model(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the model of a folder, with the class that its configuration names, in the types of its files.

    Raises:
        CheckpointError: a file is missing or damaged. `ConfigError`: transformers is missing, or code is named.
    """
    folder = Path(folder)
    config = open_config(folder, trust_remote_code=trust_remote_code)
    kind = pretrained_class(folder, config, trust_remote_code=trust_remote_code)
    _check_weights(folder)
    import transformers

    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    more = {"trust_remote_code": True} if trust_remote_code else {}
    try:
        with quiet_transformers():
            model, told = kind.from_pretrained(
                str(folder), output_loading_info=True, local_files_only=True, **{dtype: "auto"}, **more
            )
    except Exception as error:  # whatever the loader raises
        raise CheckpointError(f"The folder {folder} does not load: {one_line(error)}.") from error
    if told["missing_keys"]:
        name = sorted(map(str, told["missing_keys"]))[0]
        raise CheckpointError(
            f"The files of {folder} must have all weights of {kind.__name__}. {name} is missing; download them again."
        )
    return model.eval()


def open_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a folder.

    Raises:
        CheckpointError: there is none, or it is damaged. `ConfigError`: it names code, or transformers is missing.
    """
    path = folder / "config.json"
    if not path.is_file():
        what = "no folder" if not folder.is_dir() else "a folder without config.json"
        raise CheckpointError(
            f"A model of transformers is a folder with config.json and weights. {folder} is {what}; check the name."
        )
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The configuration {path} cannot be read: {one_line(error)}.") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"The configuration {path} must be a JSON object.")
    if entries.get("auto_map") and not trust_remote_code:
        raise ConfigError(
            f"The configuration {path} names code to run (auto_map). Read that code, and give --trust-remote-code "
            "(trust_remote_code=True) if you trust it."
        )
    auto = _transformers().AutoConfig
    try:
        return auto.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # whatever the class raises
        raise CheckpointError(
            f"The configuration {path} cannot be used: {one_line(error)}. Is it of a newer transformers?"
        ) from error


def pretrained_class(folder: Path, config: Any, *, trust_remote_code: bool = False) -> Any:
    """Return the class that a configuration names first, else the one that ``AutoModel`` takes for it.

    Raises:
        CheckpointError: there is no such class.
    """
    transformers = _transformers()
    name = next(iter(getattr(config, "architectures", None) or ()), None)
    remote = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    for auto, reference in remote.items():
        if auto.startswith("AutoModel") and str(reference).rpartition(".")[2] == name:
            from transformers.dynamic_module_utils import get_class_from_dynamic_module

            return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    try:
        found = getattr(transformers, name, None) if name else None
    except Exception as error:  # its modules are imported here, and what they need
        raise ConfigError(f"The class {name} of {folder} cannot be imported: {one_line(error)}.") from error
    if found is None:
        found = transformers.AutoModel._model_mapping.get(type(config), None)
    if isinstance(found, tuple | list):
        found = found[0]
    if found is None:
        raise CheckpointError(
            f"The class {name or type(config).__name__} of {folder} is not in this version of transformers. Install the one "
            f"that wrote it ({getattr(config, 'transformers_version', None) or 'unknown'})."
        )
    return found


def _check_weights(folder: Path) -> None:
    """Refuse files that are missing or cut short, before anything is built."""
    from torchthin.io.checkpoints import read_checkpoint

    if any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file():
        read_checkpoint(folder)  # safetensors are mapped, and their sizes checked
    elif not any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"The folder {folder} must have weights: model.safetensors, or its shards and their index. It has none."
        )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"A folder of Hugging Face needs transformers: {error}. Install it with pip install 'torchthin[hf]'."
        ) from error
    return transformers
