"""Prune in a training loop of your own: three lines, marked 1 to 3.

python examples/three_lines.py
"""

import torch
from bars import accuracy, batches, network, pictures
from torch import nn

import torchthin

model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
images, labels = pictures(512, seed=0)
pruner = torchthin.Pruner(
    model, images[:2], 0.75, schedule=torchthin.Schedule(steps=6), optimizer=optimizer
)  # 1

for epoch in range(10):
    pruner.step()  # 2
    for x, y in batches(images, labels, epoch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    print(
        f"epoch {epoch}: {pruner.sparsity:.0%} of the channels pruned, accuracy {accuracy(model, *pictures(512, 1)):.1%}"
    )

print(pruner.thin_())  # 3
print(f"thinned: accuracy {accuracy(model, *pictures(512, 1)):.1%}")
