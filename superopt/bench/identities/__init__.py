"""Pairs of PyTorch functions that compute the same, and pairs that only look alike.

``IDENTITIES`` holds for real numbers: inputs are finite, and nothing is asked where one of the two
has no value; rounding, and the order of sums, are no difference. ``NEAR_MISSES`` differ in value.
Both are written as users write such pairs, and know nothing of how superopt decides.
"""

from superopt.bench.identities.attention import ATTENTION
from superopt.bench.identities.beyond import BEYOND
from superopt.bench.identities.entry import Identity, NearMiss
from superopt.bench.identities.layout import LAYOUT
from superopt.bench.identities.linear import LINEAR
from superopt.bench.identities.near_attention import NEAR_ATTENTION
from superopt.bench.identities.near_elements import NEAR_ELEMENTS
from superopt.bench.identities.near_masks import NEAR_MASKS
from superopt.bench.identities.near_rare import NEAR_RARE
from superopt.bench.identities.near_tensors import NEAR_TENSORS
from superopt.bench.identities.norms import NORMS
from superopt.bench.identities.pointwise import POINTWISE
from superopt.bench.identities.selections import INTEGERS, SELECTIONS
from superopt.bench.identities.sizes import SIZES
from superopt.bench.identities.softmax import SOFTMAX

__all__ = ["BEYOND", "IDENTITIES", "Identity", "NEAR_MISSES", "NearMiss"]

IDENTITIES: tuple[Identity, ...] = (
    *LINEAR,
    *LAYOUT,
    *NORMS,
    *SOFTMAX,
    *ATTENTION,
    *POINTWISE,
    *SELECTIONS,
    *INTEGERS,
    *SIZES,
)
"""Pairs that agree."""

NEAR_MISSES: tuple[NearMiss, ...] = (
    *NEAR_TENSORS,
    *NEAR_ATTENTION,
    *NEAR_ELEMENTS,
    *NEAR_RARE,
    *NEAR_MASKS,
)
"""Pairs that differ."""
