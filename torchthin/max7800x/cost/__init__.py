"""What a network costs on a chip: formulas in whole numbers, no torch.

layer.py           a layer as a chip sees it; its passes, kernel words and bytes
cycles.py          cycles of a layer
limits.py          what of a layer a chip cannot run
data_memory.py     where feature maps lie
kernel_memory.py   where kernels lie
placement.py       both, for a network, and where biases lie
network.py         all of it, for a network
widths.py          a network at other widths
"""
