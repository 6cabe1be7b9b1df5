"""Pruned models of any class in folders and repositories as huggingface_hub has them (``pip install torchthin[hf]``).

::

    class ThinNet(HubModel):
        factory = staticmethod(timm.create_model)            # what makes the full-size model

    ThinNet({"model_name": "resnet18"}, result.model).save_pretrained("thin-resnet18")   # or push_to_hub("name/thin-resnet18")
    model = ThinNet.from_pretrained("thin-resnet18").model
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from torchthin.errors import CheckpointError, ConfigError, one_line
from torchthin.pruning.save_and_load import load_mapped, save

_WEIGHTS = "model.safetensors"


class _HubModel(nn.Module):
    """A pruned model with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``; subclasses name their `factory`.

    ``config.json`` holds the arguments of the factory, ``model.safetensors`` the weights and the recipe that makes the full-size
    model smaller. No file names code: what is called is the `factory` of the subclass.

    Args:
        arguments: keyword arguments of the factory, as JSON has them.
        model: what `prune`, `thin_` or `load` returned for a model of this factory.

    Raises:
        ConfigError: the subclass has no factory.
    """

    factory: ClassVar[Callable[..., nn.Module]]

    def __init__(self, arguments: Mapping[str, Any], model: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(type(self), "factory", None)):
            raise ConfigError(
                f"A HubModel must name the function that makes the full-size model. {type(self).__name__} does not; write "
                "factory = staticmethod(function) into the class."
            )
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.model(*args, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.model, save_directory / _WEIGHTS)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, arguments: Mapping[str, Any] | None = None, **where: Any
    ) -> _HubModel:
        if not isinstance(arguments, Mapping):
            raise CheckpointError(
                f"The folder {model_id} must have a config.json with the arguments of the factory. Save the model with "
                "save_pretrained of a HubModel."
            )
        from huggingface_hub import hf_hub_download

        path = Path(model_id) / _WEIGHTS
        if not Path(model_id).is_dir():
            try:
                path = Path(hf_hub_download(model_id, _WEIGHTS, **where))
            except Exception as error:  # of the network, the hub, or the cache
                raise CheckpointError(
                    f"{_WEIGHTS} of {model_id} cannot be read: {one_line(error)}."
                ) from error
        return cls(arguments, load_mapped(partial(cls.factory, **arguments), path).eval())


@cache
def _hub_class() -> Any:
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError as error:
        raise ConfigError(
            f"HubModel needs huggingface_hub: {error}. Install it with pip install 'torchthin[hf]'."
        ) from error
    kind: Any = type(ModelHubMixin)
    bases = (_HubModel, ModelHubMixin)
    described = {"__doc__": _HubModel.__doc__, "__module__": __name__}
    return kind("HubModel", bases, described, library_name="torchthin", tags=["torchthin", "pruned"])


def __getattr__(name: str) -> Any:
    if name == "HubModel":
        return _hub_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
