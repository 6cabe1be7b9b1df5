"""Files for ADI's ai8x-synthesis: a checkpoint and a network description, from any model that maps onto the chip.

files.py              `save_for_synthesis`
network.py            all that is written, for one model
capture.py            a run of the model that keeps the numbers of its layers
weights.py            weights and biases, with BatchNorm and a strided first layer folded; the state dict of the checkpoint
simulation.py         the layers run as written: the proof
stored.py             what of them the chip stores, since it is not zero and not there already
integers.py           the layers run in the whole numbers that quantize.py makes of what is written
integer_model.py      the same as a model with the inputs and outputs of its own
addresses.py          offsets and gaps in data memory
description.py        the network description, as data and as YAML
user_description.py   the user's own description, corrected
"""

from torchthin.max7800x.synthesis.files import (
    Synthesis,
    SynthesisFiles,
    ready_for_synthesis,
    save_for_synthesis,
)

__all__ = ["Synthesis", "SynthesisFiles", "ready_for_synthesis", "save_for_synthesis"]
