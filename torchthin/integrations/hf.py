"""`PruneCallback` for the Trainer of transformers (``pip install torchthin[hf]``).

::

    pruner = torchthin.Pruner(model, example_inputs, 0.5, schedule=torchthin.Schedule(steps=20))
    transformers.Trainer(model, args, train_dataset=data, callbacks=[PruneCallback(pruner)]).train()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchthin.integrations.callbacks import EPOCH, callback_class, check_arguments
from torchthin.io.checkpoints import read_state, write_state
from torchthin.pruning.gradual.pruner import Pruner

STATE_FILE = "torchthin_pruner.pt"
"""Name of the Pruner's state inside a checkpoint folder of the Trainer."""


class _Hooks:
    """Calls ``pruner.step()`` at the start of every epoch or every so many optimizer steps; masks hold in between.

    The Pruner's state is written into every checkpoint folder, and read from there when training is resumed.

    Args:
        pruner: made for the model before the Trainer.
        every: "epoch", or a number of optimizer steps.
        thin: remove what is masked when training ends.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(self, pruner: Pruner, every: str | int = EPOCH, thin: bool = False) -> None:
        check_arguments(pruner, every, thin)
        self.pruner, self.every, self.thin = pruner, every, thin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the optimizer, and resume from the checkpoint, if there is one."""
        # transformers 4.49.0 hands the optimizer to its state, and None to callbacks
        optimizer: Any = kwargs["optimizer"] or getattr(state, "optimizer", None)
        self.pruner.attach_(optimizer)
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            cure = "Resume from a checkpoint that was written with PruneCallback."
            saved = read_state(folder / STATE_FILE, "state of the Pruner", (), cure)
            self.pruner.load_state_dict(saved)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Step, if every epoch is asked for; an epoch in which a run is resumed had its step."""
        begun = abs(float(state.epoch or 0.0) - round(float(state.epoch or 0.0))) > 1e-6
        if self.every == EPOCH and not begun:
            self.pruner.step()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Step, if it is time; called once for each optimizer step, also where gradients are accumulated."""
        if self.every != EPOCH and state.global_step % int(self.every) == 0:
            self.pruner.step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the Pruner's state beside the model's."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_state(folder / STATE_FILE, "state of the Pruner", self.pruner.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Thin the model, if that is asked for."""
        if self.thin:
            self.pruner.thin_()


__getattr__ = callback_class(__name__, _Hooks, "transformers.TrainerCallback", "transformers")
