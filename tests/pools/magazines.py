"""What of a pool magazines change, and how they end."""

import gc

import numpy as np


def state(pool):
    """Everything that getting and putting can change."""
    return [
        {i: int(words[i]) for i in np.flatnonzero(words)} for words in (pool._queue._words, pool._owners, pool._deques)
    ]


def end_by_close(magazines):
    magazines.pop().close()


def end_by_drop(magazines):
    magazines.pop()
    gc.collect()


BELONGS = "the magazine belongs to another thread until it is released"
