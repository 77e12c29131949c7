"""The ring of the Go package, after its published algorithm, to show that the explorer catches what is wrong with it.

Full slots hold a bare index and only empty ones a lap number, so a get that sleeps between reading a slot and its
compare-and-swap can still succeed a lap later.
"""

import numpy as np

from iobuf_nb.atomics import compare_and_swap, load

HEAD, TAIL, SLOTS = 0, 1, 2
EMPTY_BIT = 1 << 32


class GoRing:
    def __init__(self, capacity):
        self.capacity = capacity
        self.words = np.zeros(SLOTS + capacity, np.int64)
        self.words[SLOTS:] = range(capacity)
        self.words[TAIL] = capacity

    def try_get(self):
        while True:
            head, tail = load(self.words, HEAD), load(self.words, TAIL)
            slot = SLOTS + head % self.capacity
            entry = load(self.words, slot)
            if head != load(self.words, HEAD):
                continue
            if head == tail:
                return -1
            taken = EMPTY_BIT | (head // self.capacity + 1)
            if entry == taken:
                compare_and_swap(self.words, HEAD, head, head + 1)
                continue
            won = compare_and_swap(self.words, slot, entry, taken)
            compare_and_swap(self.words, HEAD, head, head + 1)
            if won:
                return entry

    def try_put(self, index):
        while True:
            head, tail = load(self.words, HEAD), load(self.words, TAIL)
            slot = SLOTS + tail % self.capacity
            if tail != load(self.words, TAIL):
                continue
            if tail == head + self.capacity:
                return False
            won = compare_and_swap(self.words, slot, EMPTY_BIT | tail // self.capacity, index)
            compare_and_swap(self.words, TAIL, tail, tail + 1)
            if won:
                return True
