"""Rules by op family; importing this package registers them all."""

from torchthin.labels.rules import attention as attention
from torchthin.labels.rules import contraction as contraction
from torchthin.labels.rules import creation as creation
from torchthin.labels.rules import dividing as dividing
from torchthin.labels.rules import elementwise as elementwise
from torchthin.labels.rules import indexing as indexing
from torchthin.labels.rules import movement as movement
from torchthin.labels.rules import normalization as normalization
from torchthin.labels.rules import pooling as pooling
from torchthin.labels.rules import reduction as reduction
from torchthin.labels.rules import views as views
