"""Prune under Lightning: a Pruner for the network, and a callback.

pip install 'torchthin[lightning]'
python examples/lightning_example.py
"""

import tempfile
import warnings

import lightning
import torch
from bars import accuracy, network, pictures
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchthin
from torchthin.integrations.lightning import PruneCallback


class Module(lightning.LightningModule):
    """Any LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="lightning")
    lightning.seed_everything(0)
    images, labels = pictures(512, seed=0)
    module = Module()
    pruner = torchthin.Pruner(module.net, images[:2], 0.75, schedule=torchthin.Schedule(steps=6))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=10,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[PruneCallback(pruner, every="epoch", thin=True)],
        )
        trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True))
        pruner.result().save(f"{folder}/thin.safetensors")
        again = torchthin.load(network(), f"{folder}/thin.safetensors")
    print(pruner.report())
    print("loaded:", torch.equal(again.eval()(images[:8]), module.net.eval()(images[:8])))
    print(f"thinned: accuracy {accuracy(module.net, *pictures(512, 1)):.1%}")
