"""Prune under the Trainer of transformers: a Pruner for the model, and a callback.

pip install 'torchthin[hf]'
python examples/trainer_example.py
"""

import tempfile

import torch
import transformers
from bars import accuracy, network, pictures
from torch import Tensor, nn

import torchthin
from torchthin.integrations.hf import PruneCallback


class Classifier(nn.Module):
    """What the Trainer takes: a model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Pictures(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The data as dicts."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"images": self.images[number], "labels": self.labels[number]}


if __name__ == "__main__":
    images, labels = pictures(512, seed=0)
    model = Classifier()
    pruner = torchthin.Pruner(model.net, images[:2], 0.75, schedule=torchthin.Schedule(steps=6))
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            folder,
            num_train_epochs=10,
            per_device_train_batch_size=64,
            learning_rate=0.03,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        callback = PruneCallback(pruner, every=8, thin=True)  # every 8 optimizer steps
        transformers.Trainer(
            model, args, train_dataset=Pictures(images, labels), callbacks=[callback]
        ).train()
        pruner.result().save(f"{folder}/thin.safetensors")
        again = torchthin.load(network(), f"{folder}/thin.safetensors")
    print(pruner.report())
    print("loaded:", torch.equal(again.eval()(images[:8]), model.net.eval()(images[:8])))
    print(f"thinned: accuracy {accuracy(model.net, *pictures(512, 1)):.1%}")
