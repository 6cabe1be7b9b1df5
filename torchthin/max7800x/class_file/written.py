"""The text of a class file, run as it will be imported."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn

from torchthin.io.checkpoints.fit import follow_settings_


def built_from(text: str, name: str, model: nn.Module) -> nn.Module:
    """Run a file's text, call `name` of it, and return what that builds with the weights of `model`, strictly loaded.

    Raises whatever the text, the class or the loading raises.
    """
    module = ModuleType("torchthin_class_file")
    exec(compile(text, "<class file>", "exec"), module.__dict__)
    made: nn.Module = getattr(module, name)()
    made.load_state_dict(model.state_dict(), strict=True)
    follow_settings_(made)  # as train.py does: layers of ai8x follow the settings that were loaded
    like = next(model.parameters(), torch.zeros(()))
    return made.to(like.device, like.dtype if like.is_floating_point() else None)
