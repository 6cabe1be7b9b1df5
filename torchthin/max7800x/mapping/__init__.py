"""Which layers of a chip a model becomes: recorded operators -> `torchthin.max7800x.cost.layer.Layer`.

model_layers.py    the walk along the record, from the input to the outputs
rules/             one function for each operator
registry.py        where the rules are, and what they are given
feature_map.py     what is known of a tensor on the way: where it comes from, what is still to be done to it
layer_builder.py   the layers so far; joins pooling and element-wise operations to the convolution after them
"""

from torchthin.max7800x.mapping.feature_map import ChipMapping
from torchthin.max7800x.mapping.model_layers import NO_LAYER, map_model, map_runnable

__all__ = ["NO_LAYER", "ChipMapping", "map_model", "map_runnable"]
