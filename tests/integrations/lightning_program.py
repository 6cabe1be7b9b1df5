"""Run by `test_callbacks`: a fit of 6 epochs, and one of 3 that goes on from its checkpoint, end with the same bits."""

import tempfile

import lightning
import torch
from bars import pictures
from lightning_example import Module
from torch.utils.data import DataLoader, TensorDataset

import torchthin
from torchthin.integrations.lightning import PruneCallback

IMAGES, LABELS = pictures(128, seed=0)


class Looker(lightning.Callback):
    """Looks after every optimizer step whether the masks hold."""

    def __init__(self, pruner: torchthin.Pruner) -> None:
        self.pruner, self.held, self.sparsities = pruner, True, []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        for name, mask in self.pruner.masks.items():
            self.held &= not bool(module.net.get_parameter(name)[~mask].any())
        self.sparsities.append(self.pruner.sparsity)


def fit(folder: str, epochs: int, every: object, resume: str | None = None, **more: object):
    module = Module()
    pruner = torchthin.Pruner(module.net, IMAGES[:2], schedule=torchthin.Schedule(steps=5))
    looker = Looker(pruner)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[PruneCallback(pruner, every=every), looker], **more,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=32), ckpt_path=resume)
    return module, pruner, looker, trainer


with tempfile.TemporaryDirectory() as folder:
    for every in ("epoch", 3):
        whole, straight, looker, _ = fit(folder, 6, every)
        assert looker.held
        assert straight.finished
        assert straight.sparsity == 0.5
        *_, half = fit(folder, 3, every)
        half.save_checkpoint(f"{folder}/half.ckpt")
        again, resumed, _, _ = fit(
            folder,
            6,
            every,
            f"{folder}/half.ckpt",
        )
        assert resumed.steps_done == straight.steps_done
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
    _, pruner, looker, _ = fit(folder, 5, 2, accumulate_grad_batches=2, precision="bf16-mixed")
    assert looker.held
    assert pruner.steps_done == 5  # 20 batches, 10 optimizer steps
