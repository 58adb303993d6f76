"""Train and test apart by combination: which pairs of words a world keeps out of training, whatever the seed.

A sample is described by its *pairs*, such as ("red", "apple") or ("koala", "apple"). A fifth of all pairs, drawn by digest, is
held out: a training sample holds none of them, a test sample at least one. Any train set and any test set of a world are
therefore disjoint, of whatever seeds and sizes, and every single word of the test set is still met in training.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

SHARE = 0.2
"""The part of all pairs that is held out of training."""


@lru_cache(maxsize=1 << 16)
def is_held_out(first: str, second: str) -> bool:
    """Whether a pair (in either order) is kept out of training."""
    digest = hashlib.sha256("\0".join(sorted((first, second))).encode()).digest()
    return int.from_bytes(digest[:4], "big") < SHARE * 2**32


def split_of(pairs: Iterable[tuple[str, str]]) -> str:
    """`test` if a pair is held out, else `train`."""
    return "test" if any(is_held_out(*pair) for pair in pairs) else "train"
