"""What a network costs on a neural-network accelerator: chips as data, formulas in whole numbers, no torch.

table.py      the chips, every number with its source
layer.py      a layer as a chip sees it
words.py      kernel words, processors, bias bytes of a layer
cycles.py     cycles of a layer
limits.py     what of a layer a chip cannot run
data.py       where feature maps lie in data memory
kernels.py    where kernels lie in kernel memory
bias.py       where biases lie in bias memory
network.py    all of it, for a network
"""
