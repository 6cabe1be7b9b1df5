"""Which layers of a chip a model becomes: recorded operators -> `torchthin.max7800x.cost.layer.Layer`.

features.py   what is known of a tensor on the way: where it comes from, what is still to be done to it
draft.py      the layers so far; joins pooling and element-wise operations to the convolution behind them
rules/        one function for each operator
folding.py    a strided first layer as an unstrided one on a folded input
gaps.py       copies that the chip needs in front of element-wise operations
follow.py     the walk along the record
"""

from torchthin.max7800x.mapping.feature_map import ChipMapping
from torchthin.max7800x.mapping.follow import map_model

__all__ = ["ChipMapping", "map_model"]
