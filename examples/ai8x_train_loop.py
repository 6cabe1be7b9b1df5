"""Distiller's way in a loop like that of ADI's train.py: layers of ai8x, a schedule in Distiller's YAML, steps as epochs begin.

Pruning comes first. From epoch `START_QAT` on the network is trained quantisation-aware, as ADI's policies with `start_epoch` do
it: channels that are pruned are removed, BatchNorm is fused, and the layers round from then on.

The layers are torchthin's stand-ins, so that this runs without ADI's tools; with them, import ai8x instead, and call its
`fuse_bn_layers` and `initiate_qat`. The checkpoint that is written before is of full size, masked, with the keys of the class.

    python examples/ai8x_train_loop.py
"""

import tempfile
from pathlib import Path

import torch
from bars import accuracy, batches, pictures
from torch import Tensor, nn

import torchthin
from torchthin.io.distiller.schedule import read_schedule
from torchthin.max7800x import integer_model
from torchthin.max7800x.ai8x import layers as ai8x
from torchthin.max7800x.ai8x.base import fuse_batch_norm_, initiate_qat

EPOCHS, START_QAT = 12, 8
SCHEDULE = """
version: 1
pruners:
  trunk:
    class: StructuredParameterPruner
    reg_regims: {}
  filters:
    class: L1RankedStructureParameterPruner_AGP
    initial_sparsity: 0.05
    final_sparsity: 0.5
    group_type: Filters
    weights: [conv1.op.weight, conv2.op.weight]
policies:
  - pruner: {instance_name: filters}
    starting_epoch: 1
    ending_epoch: 6
    frequency: 1
"""


class Bars(nn.Module):
    """A network as they stand in ai8x-training's models folder."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ai8x.FusedConv2dBNReLU(1, 16, 3, padding=1, bias=True, batchnorm="Affine")
        self.conv2 = ai8x.FusedMaxPoolConv2dBNReLU(16, 32, 3, padding=1, bias=True, batchnorm="Affine")
        self.conv3 = ai8x.FusedMaxPoolConv2dReLU(32, 16, 3, padding=1, bias=True)
        self.fc = ai8x.Linear(256, 4, bias=True, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.conv1(x)))
        return self.fc(x.view(x.size(0), -1))


torch.manual_seed(0)
model = Bars()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
images, labels = pictures(512, seed=0)
images = images.clamp(-3, 3) / 3  # the chip takes -1 to 1

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "schedule.yaml"
    file.write_text(SCHEDULE)
    schedule = read_schedule(file)
for note in schedule.notes:
    print("Note:", note)
filters = schedule.pruner("filters")
pruner = torchthin.Pruner(model, images[:2], **filters.options, optimizer=optimizer)


def quantisation_aware_() -> torch.optim.Optimizer:
    """Save the masked network, remove its pruned channels, switch to quantisation-aware training, and return an optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bars.pth.tar"
        pruner.result().save(path)
        again = torchthin.load(Bars(), path)
    print(f"saved and loaded into the class: accuracy {accuracy(again, images, labels):.1%}")
    print(pruner.thin_())
    print(f"thinned: accuracy {accuracy(model, images, labels):.1%}")
    fuse_batch_norm_(model.eval())
    initiate_qat(model)
    print(f"in 8 bits, not trained so yet: accuracy {accuracy(model, images, labels):.1%}")
    return torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=0.003)


for epoch in range(EPOCHS):
    if epoch < START_QAT:
        pruner.step()
    elif epoch == START_QAT:
        optimizer = quantisation_aware_()
    model.train()
    for x, y in batches(images, labels, epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    kind = "quantisation-aware, " if epoch >= START_QAT else f"{pruner.sparsity:.0%} of the channels pruned, "
    print(f"epoch {epoch}: {kind}accuracy {accuracy(model, images, labels):.1%}")

chip = integer_model(model.eval(), images[:1])
print(f"in the chip's whole numbers: accuracy {accuracy(chip, images, labels):.1%}")
