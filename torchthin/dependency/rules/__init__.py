"""Rules by op family; importing this package registers them all."""

from torchthin.dependency.rules import attention as attention
from torchthin.dependency.rules import contraction as contraction
from torchthin.dependency.rules import creation as creation
from torchthin.dependency.rules import elementwise as elementwise
from torchthin.dependency.rules import index as index
from torchthin.dependency.rules import linear_solve as linear_solve
from torchthin.dependency.rules import movement as movement
from torchthin.dependency.rules import normalization as normalization
from torchthin.dependency.rules import pooling as pooling
from torchthin.dependency.rules import reduction as reduction
from torchthin.dependency.rules import split_and_cat as split_and_cat
from torchthin.dependency.rules import views as views
