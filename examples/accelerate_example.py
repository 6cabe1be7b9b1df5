"""Prune under Hugging Face Accelerate: the loop is the user's, and every process has the same masks.

accelerate launch examples/accelerate_example.py, or torchrun --standalone --nproc-per-node 2 examples/accelerate_example.py
"""

import torch
import torch.distributed.nn  # before the group: imported later (DDP does it), its defaults keep the group's threads alive
from accelerate import Accelerator
from bars import accuracy, network, pictures
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchthin

torch.set_num_threads(1)
accelerator = Accelerator(cpu=not torch.cuda.is_available())
net = network()
data = DataLoader(TensorDataset(*pictures(512, seed=0)), batch_size=32, shuffle=True)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
model, optimizer, data = accelerator.prepare(net, optimizer, data)
example = pictures(2, seed=2)[0].to(accelerator.device)
pruner = torchthin.Pruner(model, example, 0.75, schedule=torchthin.Schedule(steps=6), optimizer=optimizer)

for epoch in range(10):
    pruner.step()
    for x, y in data:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    if epoch == 7:
        pruner.thin_()
        model = accelerator.prepare(net)  # the old one knows the old sizes

total = torch.stack([parameter.detach().double().sum() for parameter in net.parameters()]).sum()
same = accelerator.gather(total.reshape(1)).unique().numel() == 1
if accelerator.is_main_process:
    print(pruner.report())
    print(f"thinned: accuracy {accuracy(net.cpu(), *pictures(512, 1)):.1%}")
    print("all ranks have the same weights:", same)
del model  # it holds the group; torch may abort a process that ends while threads of a group still run
accelerator.end_training()
