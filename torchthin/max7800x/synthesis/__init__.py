"""Files for ADI's ai8x-synthesis: a checkpoint and a network description, from any model that maps onto the chip.

captured.py     a run of the model that keeps the numbers of its layers
kernels.py      kernels and biases, with BatchNorm and a strided first layer folded
simulation.py   the layers run as written: the proof
state.py        the state dict of the checkpoint
wiring.py       offsets and gaps in data memory
description.py  the network description, as data and as YAML
corrected.py    the user's own description, corrected
network.py      all of it for one model
files.py        `save_for_synthesis`
"""

from torchthin.max7800x.synthesis.files import (
    Synthesis,
    SynthesisFiles,
    ready_for_synthesis,
    save_for_synthesis,
)

__all__ = ["Synthesis", "SynthesisFiles", "ready_for_synthesis", "save_for_synthesis"]
