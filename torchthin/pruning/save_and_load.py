"""A pruned model as a checkpoint: `save_pruned` and `save` write it, `load` reads it into an instance of the user's class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from torchthin.config import PruneConfig
from torchthin.errors import CheckpointError, InputError
from torchthin.graph.clone import clone, duplicate, modules_of, state_tensors
from torchthin.graph.inputs import check_model
from torchthin.graph.layers import LISTS
from torchthin.graph.parametrized import recompute_
from torchthin.io.checkpoints import (
    Checkpoint,
    load_into,
    read_checkpoint,
    write_checkpoint,
)
from torchthin.io.checkpoints.folded import drop_folded_, folded_layers
from torchthin.io.distiller.recipe import from_distiller
from torchthin.io.empty import build_empty
from torchthin.report.prune_report import PruneReport
from torchthin.report.record import version
from torchthin.thinning.apply import apply_
from torchthin.thinning.history import recipe_of, remember_
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.recipe_check import check_stored


def save_pruned(
    path: str | Path,
    state_dict: Mapping[str, Any],
    masks: Mapping[str, Tensor],
    report: PruneReport,
    config: PruneConfig,
    recipe: Recipe | None,
    *,
    source: str,
    epoch: int = 0,
    arch: str | None = None,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write a pruned model, complete or not at all.

    Args:
        path: a torch file, or safetensors by its ending.
        state_dict: of the pruned model, with the names of the user's class.
        masks: weight name -> bool tensor of the weight's shape, True = kept.
        report: what was achieved.
        config: what was asked for.
        recipe: what leads from the full-size class to the model; None for a model of full size.
        source: where the weights came from.
        epoch: of the source; ai8x-training compares it with the start of quantisation-aware training.
        arch: the architecture's name in ai8x-training.
        extras: entries of the source to hand on.

    Raises:
        CheckpointError: the file cannot be written; a file that was there is untouched.
    """
    sparsity = float(report.request.target_sparsity)
    entry = {
        "version": version(),
        "config": {**config.to_dict(), "target_sparsity": sparsity},
        "report": report.to_dict(),
    }
    contents = {
        "state_dict": state_dict,
        "masks": masks,
        "target_sparsity": sparsity,
        "method": config.method,
        "source": source,
        "epoch": epoch,
        "arch": arch,
        "extras": extras or {},
        "torchthin": entry if recipe is None else {**entry, "recipe": recipe.to_dict()},
    }
    write_checkpoint(path, contents)


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights of a model that was thinned, and the recipe of all its cuts; `load` reads both into its class.

    For models that `thin_`, `prune` or `Pruner` thinned, or `load` returned, also after training: the recipe goes with the
    model and with copies of it. A model that nothing was removed from is written too. The file (a torch file that loads with
    ``weights_only=True``, or safetensors by its ending) appears whole. `PruneResult.save` adds masks and report.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.

    >>> import tempfile, torchthin
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> small = torchthin.prune(net, torch.zeros(1, 4), 0.5).model
    >>> again = torchthin.prune(small, torch.zeros(1, 4), 0.5).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(again, f"{folder}/thin.pth")
    ...     load(net, f"{folder}/thin.pth")[0].out_features
    2
    """
    check_model(model, "save")
    recipe, entry = recipe_of(model), {"version": version()}
    contents = {
        "state_dict": model.state_dict(),
        "masks": {},
        "source": type(model).__name__,
        "torchthin": entry if recipe is None else {**entry, "recipe": recipe.to_dict()},
    }
    write_checkpoint(path, contents)


Model = TypeVar("Model", bound=nn.Module)


def load(model: Model, path: str | Path) -> Model:
    """Load a checkpoint into `model` and return it.

    A thinned checkpoint has a recipe: `model`, a full-size instance of the class that was pruned, is first shrunk by it in
    place. One of ADI's train.py may have Distiller's recipe. Every tensor must then fit exactly. Checkpoints that are only
    masked, or not this package's, load as they are.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the model; the message names what differs, and the
            model is as it was.
    """
    check_model(model, "load")
    checkpoint = read_checkpoint(path)
    if (
        any(folded_layers(model, checkpoint.state_dict))
        or stored_recipe(with_recipe(checkpoint, model)) is not None
    ):
        _fill_(
            clone(model, duplicate), checkpoint
        )  # a file that does not fit must not leave the model shrunk
    _fill_(model, checkpoint)
    return model


def load_mapped(
    model: nn.Module | Callable[[], nn.Module], files: str | Path | Sequence[str | Path]
) -> nn.Module:
    """Return a model whose weights stay in safetensors files and are read from there whenever something reads them.

    It takes the memory of its buffers; the system keeps pages of the files as long as nothing else needs the room. The files
    are never written to: what changes a weight in place changes a copy of the pages. They must stay as they are while the
    model lives. Weights have the types of the file. Thinned checkpoints are read by their recipe, as `load` does.

    Args:
        model: a function that builds the full-size model, called here: its parameters take no memory, its buffers get values.
            Or a model on the meta device, where all that has no values is in the files.
        files: a file, a list of files, or a folder or an index as Hugging Face writes them (``model.safetensors.index.json``).

    Raises:
        CheckpointError: a file cannot be read, or they do not fit the model; the message names what differs.
        InputError: something of the model has no values, and is in no file.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file(nn.Linear(4, 2).state_dict(), f"{folder}/model.safetensors")
    ...     load_mapped(lambda: nn.Linear(4, 2), folder)
    Linear(in_features=4, out_features=2, bias=True)
    """
    checkpoint = read_checkpoint(files)
    built = model
    if not isinstance(model, nn.Module):
        built = build_empty(model, checkpoint.state_dict.values())
    check_model(built, "load_mapped")
    assert isinstance(built, nn.Module)
    fill_(built, checkpoint)
    return built


def fill_(model: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """Load a checkpoint into a model of full size, thinned by its recipe; return it with the recipe.

    A model that was built without values for its parameters takes the tensors of the checkpoint, see `load_mapped`.
    """
    empty = any(parameter.is_meta for parameter in model.parameters())
    checkpoint = _fill_(model, checkpoint)
    if empty:
        recompute_(model)
        _refuse_without_values(model)
    return checkpoint


def _fill_(model: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    drop_folded_(model, checkpoint.state_dict)
    checkpoint = with_recipe(checkpoint, model)
    shrink_to_(model, checkpoint)
    load_into(model, checkpoint)
    return checkpoint


def _refuse_without_values(model: nn.Module) -> None:
    empty = [name for name, tensor in state_tensors(model) if tensor.is_meta]
    if empty:
        raise InputError(
            f"{empty[0]} of the model ({type(model).__name__}) has no values, and is in no file. Give load_mapped the function "
            "that builds the model, outside of the meta device."
        )


def with_recipe(checkpoint: Checkpoint, model: nn.Module) -> Checkpoint:
    """Return the checkpoint with Distiller's recipes, if it has some and none of this package's, as one of this package's.

    Raises:
        CheckpointError: they do not fit `model`, the class of full size.
    """
    if not checkpoint.thinning_recipes or stored_recipe(checkpoint) is not None:
        return checkpoint
    try:
        recipe = from_distiller(checkpoint.thinning_recipes, model)
    except InputError as error:
        raise CheckpointError(f"The recipe in {checkpoint.path} cannot be used: {error}") from error
    if not recipe:
        return checkpoint
    return replace(checkpoint, torchthin={**(checkpoint.torchthin or {}), "recipe": recipe.to_dict()})


def stored_recipe(checkpoint: Checkpoint) -> Recipe | None:
    """Return the recipe that a checkpoint was thinned by; None when this package did not thin it."""
    entry = checkpoint.torchthin or {}
    data = entry.get("recipe")
    return Recipe.from_dict(data) if isinstance(data, dict) else None


def shrink_to_(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Thin `model` by the checkpoint's recipe; one that has the thinned shapes already is left as it is."""
    recipe = stored_recipe(checkpoint)
    if recipe is None:
        return
    shapes = {name: tuple(tensor.shape) for name, tensor in state_tensors(model)}
    lists = {path: len(module) for path, module in modules_of(model) if isinstance(module, LISTS)}
    short = all(lists.get(path) == len(kept) for path, kept in recipe.layers.items())
    if short and all(shapes.get(name) == recipe.shape_after(name) for name in recipe.keep):
        if recipe_of(model) is None:
            remember_(model, recipe)
        return
    try:
        check_stored(recipe, model)
        apply_(model, recipe)
    except InputError as error:
        raise CheckpointError(f"{checkpoint.path} was thinned from another model: {error}") from error
