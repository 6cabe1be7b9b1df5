"""Prune under DistributedDataParallel: every rank calls the same lines, rank 0 decides, all ranks have the same masks.

torchrun --standalone --nproc-per-node 2 examples/two_processes.py
"""

import os

import torch
import torch.distributed.nn  # before the group: imported later (DDP does it), its defaults keep the group's threads alive
from bars import accuracy, batches, network, pictures
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import torchthin

torch.set_num_threads(1)
distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
device = (
    torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
)
if device.type == "cuda":
    torch.cuda.set_device(device)

net = network().to(device)
model = DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
images, labels = (part.to(device) for part in pictures(512, seed=0))
pruner = torchthin.Pruner(model, images[:2], 0.75, schedule=torchthin.Schedule(steps=6), optimizer=optimizer)

for epoch in range(10):
    pruner.step()
    for x, y in batches(images.cpu(), labels.cpu(), epoch)[rank::ranks]:  # each rank has a part of the data
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
        optimizer.step()
    if epoch == 7:
        pruner.thin_()
        model = DistributedDataParallel(net)  # the old one knows the old sizes

mine = torch.cat([parameter.detach().flatten().cpu() for parameter in net.parameters()])
if rank == 0:
    print(pruner.report())
    test, classes = pictures(512, 1)
    print(f"thinned: accuracy {accuracy(net.cpu(), test, classes):.1%}")
gathered = [None] * ranks
distributed.all_gather_object(gathered, mine.double().sum().item())
if rank == 0:
    print("all ranks have the same weights:", len(set(gathered)) == 1)
distributed.barrier()
del model  # it holds the group; torch may abort a process that ends while threads of a group still run
distributed.destroy_process_group()
