"""`PruneCallback` for Lightning (``pip install torchthin[lightning]``).

::

    pruner = torchthin.Pruner(module.net, example_inputs, 0.5, schedule=torchthin.Schedule(steps=20))
    lightning.Trainer(callbacks=[PruneCallback(pruner)]).fit(module)
"""

from __future__ import annotations

from typing import Any

from torchthin.errors import InputError
from torchthin.integrations.callbacks import EPOCH, callback_class, check_arguments
from torchthin.pruning.gradual.pruner import Pruner


class _Hooks:
    """Calls ``pruner.step()`` at the start of every epoch or every so many optimizer steps; masks hold in between.

    The Pruner's state is part of Lightning's checkpoints, so that ``fit(ckpt_path=...)`` resumes in the middle of the
    schedule.

    Args:
        pruner: made for the network inside the LightningModule, before the fit. The first optimizer is attached.
        every: "epoch", or a number of optimizer steps.
        thin: remove what is masked when the fit ends. A run that is resumed after that needs a new Pruner.

    Raises:
        ConfigError: an argument cannot be used. `InputError`: more than one optimizer, or one of another model.
    """

    def __init__(self, pruner: Pruner, every: str | int = EPOCH, thin: bool = False) -> None:
        check_arguments(pruner, every, thin)
        self.pruner, self.every, self.thin = pruner, every, thin
        self._seen = -1  # epoch, or optimizer steps done, when last looked at

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the optimizer."""
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"PruneCallback attaches one optimizer. Got {len(trainer.optimizers)}; "
                "call pruner.attach_ and pruner.step in the LightningModule."
            )
        self.pruner.attach_(trainer.optimizers[0])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Step, if every epoch is asked for; an epoch in which a run is resumed had its step."""
        epoch = int(trainer.current_epoch)
        if self.every == EPOCH and epoch != self._seen:
            self.pruner.step()
            self._seen = epoch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Step, if it is time: once for each optimizer step, also where gradients are accumulated."""
        done = int(trainer.global_step)
        if self.every != EPOCH and done != self._seen:
            if done % int(self.every) == 0:
                self.pruner.step()
            self._seen = done

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Thin the model, if that is asked for."""
        if self.thin:
            self.pruner.thin_()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"pruner": self.pruner.state_dict(), "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.pruner.load_state_dict(state_dict["pruner"])
        self._seen = state_dict["seen"]


__getattr__ = callback_class(__name__, _Hooks, "lightning.pytorch.callbacks.Callback", "Lightning")
