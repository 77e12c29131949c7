"""Programs of processes that share a pool and a channel, and die: in the form of `cases`, one process for each thread.

Each has handles of its own over the same words. The system holds the lock of a slot as long as its process lives: a
word LOCKED stands for that, and becomes 0 when the thread dies. At every end a survivor recovers what the dead had, and
must then find each buffer exactly once, unless it is in the hands of a process that lives.
"""

import contextlib
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from iobuf_nb import BoundedQueue, Channel
from iobuf_nb._free import depot, free_list, handover, processes, waiting
from iobuf_nb._free.owners import FREE, owner_at
from iobuf_nb._free.processes import IDENTITY, NUMBER_SHIFT
from iobuf_nb._free.queue import LINE_PAIR, put_item
from iobuf_nb._memory import process_slots
from iobuf_nb._memory.aligned import aligned_mem
from iobuf_nb._memory.process_slots import LOCKED, NUMBER, SLOT_BITS, SLOT_WORDS, ProcessSlot
from iobuf_nb._pools import channel as channels
from iobuf_nb._pools import index_pool as pools
from iobuf_nb._pools import sharing
from iobuf_nb._threads.gil import LOOK_NS
from iobuf_nb._threads.outcomes import CLOSED, EMPTY, NOT_OUT, OK
from iobuf_nb.atomics import compare_and_swap, fetch_add, load, store

from . import cases
from .cases import case
from .memories import SC, TSO, Relaxed
from .specs import Spec
from .specs import pool as pooled

SLOTS = 7  # of a segment
DEAD, IDLE, SURVIVOR = 5, 6, 7  # slots: of a process that is dead, one that lives and does nothing, one that recovers
QUEUE, DEPOT, OWNERS, TABLE, SENT = range(5)  # the first of the shared arrays
clock = np.zeros(1, np.int64)


def word_of(slot, word=LOCKED):
    return slot * SLOT_WORDS + word


def first_number(slot):
    return slot | 1 << SLOT_BITS


def try_lock(table, descriptor, slot):
    return compare_and_swap(table, word_of(slot), 0, 1, "seq_cst")


#: Instead of a mapping there is the table, and the word that says whether its slot is locked.
LIBC = SimpleNamespace(munmap=lambda mapping, size: store(*mapping, 0, "seq_cst"))


class Case(cases.Case):
    sizes = (
        *cases.Case.sizes,
        (processes, "MOST_PROCESSES", SLOTS),
        (process_slots, "MOST_PROCESSES", SLOTS),
        (sharing, "_SPARE_SLOTS", 2),
        (sharing, "order_for", lambda capacity: 0),
        (depot, "CHUNK", 2),
        (depot, "LEAST", 2),
        (handover, "LEAST", 2),
        # The locks, which are the system's.
        (process_slots, "try_lock", try_lock),
        (process_slots, "_opened_anew", contextlib.nullcontext),
        (process_slots, "_map", lambda descriptor: 1),
        (process_slots, "_libc", lambda: LIBC),
    )


class Memory:
    """The words of a segment, which each process finds in the same order."""

    slot = None
    descriptor = -1

    def __init__(self, words, table):
        self.words, self.table = words, table

    def part(self, size, align):
        return self.words.pop(0).view(np.uint8)


class Pool(pools._Pool):
    def __init__(self, capacity, words, table, slot):
        self._set_up(capacity, True, False, Memory(words, table))
        self._describe(free_list.ITEM_POOL)
        self._local[IDENTITY] = first_number(slot) << NUMBER_SHIFT

    def __del__(self):
        """Say nothing of the buffers that are out when it starts."""


def process_case(capacity, scripts, before="", held=(), room=None, stamps=False, deaths=0, limits=False):
    """Each script is what one process does, having got as many buffers as `held` says; the channel has `room`.

    G gets a buffer, B up to two at once, W waits for one; P puts the oldest that the process holds, D all of them at
    once, M the oldest twice in one call; a digit puts a buffer that another process has. S sends the oldest, K waits
    for room to do so, U sends all; T receives, N up to two at once, V waits to. R recovers, E looks for what was lost
    in transit, C closes the channel. J takes a process slot, L lets go of it. X and Y wait at most as long as the clock
    stands still, which + moves on: X for a buffer, Y to receive, and that must succeed if before it the first process
    was dead (Y: and buffer 0 in transit). A dot is any access.

    What has come to pass `before`, to a buffer each: a dead process holds it (h), has marked it in a bulk put (m), has
    freed it but not queued it (f), has sent it (s), has not queued it in the channel (t); an idle one holds it (i). e:
    the last buffer has another entry in the queue.
    """
    room = room or capacity

    def program():
        sizes = (
            sharing.queue_bytes(sharing.queue_slots(capacity)),
            depot.depot_bytes(0),
            sharing.owner_bytes(capacity),
            8 * SLOT_WORDS * (SLOTS + 1),
            sharing.queue_bytes(room),
        )
        shared = [aligned_mem(size, 8 * LINE_PAIR).view(np.int64) for size in sizes]
        clock[0] = 0
        table = shared[TABLE]
        table[LOCKED::SLOT_WORDS] = 1  # nobody can take the slots that are left
        queue = BoundedQueue._over(None, shared[SENT], room, capacity)
        joins = scripts[0].startswith("J")

        def process(slot, alive=1):
            pool = Pool(capacity, [shared[QUEUE], shared[DEPOT], shared[OWNERS]], table, slot)
            table[word_of(slot, NUMBER)], table[word_of(slot)] = first_number(slot), alive
            channel = Channel.__new__(Channel)
            channel._segment, channel.pool = None, pool
            channel._finish(queue, 1)
            return SimpleNamespace(pool=pool, channel=channel, slot=slot)

        everybody = [process(1 + thread, not (joins and thread == 0)) for thread in range(len(scripts))]
        dead, idle, survivor = process(1 if joins else DEAD, 0), process(IDLE), process(SURVIVOR)
        everybody[0].pool._queue._put_first(capacity)
        depot.lay_out(shared[DEPOT], 0)
        holding = [[free_list.take(each.pool) for _ in range(n)] for each, n in zip(everybody, held, strict=False)]
        holding += [[]] * (len(scripts) - len(holding))
        sent = [index for letter in before if (index := happened(letter, dead, idle)) is not None and letter in "st"]
        data = np.zeros(capacity, np.int64)
        made[:] = [everybody, sent, survivor, data]
        codes = [letters(each, data if stamps else None) for each in everybody]
        return [*shared, clock, data, *(each.pool._local for each in everybody)], [
            [("has", lambda got, mine=mine: got.extend(mine)), *(code[letter] for letter in script), ("holds", tuple)]
            for code, script, mine in zip(codes, scripts, holding, strict=True)
        ]

    def check(results):
        everybody, first_sent, survivor, data = made
        table, owners = survivor.pool._slots, survivor.pool._owners
        living = [each.slot - 1 for each in everybody if table[word_of(each.slot)]]
        words = [int(owners[owner_at(survivor.pool, index)]) for index in range(capacity)]
        kept = [index for t in living for name, got in results[t] if name == "holds" for index in got]
        kept += [index for node in sleepers for index in node.got]
        kept += [index for index, word in enumerate(words) if word >> NUMBER_SHIFT == first_number(IDLE)]
        with patch.object(processes, "is_locked", lambda slots, slot, descriptor: slots[word_of(slot)]):
            processes.recover(survivor.pool)
            received = drained(channels.take_next, survivor.channel)
            while channels.resend(survivor.channel):  # as far as there was room
                received += drained(channels.take_next, survivor.channel)
            free = drained(free_list.take, survivor.pool)
        assert sorted([*kept, *received, *free]) == list(range(capacity)), "a buffer was lost or doubled"
        ended = [end for thread in results for end in thread]
        if all(t in living or not set("TVYN") & set(script) for t, script in enumerate(scripts)):
            for index in range(capacity):
                sent = sum(name in "SKU" and index in np.atleast_1d(result) for name, result in ended)
                sent += index in first_sent
                came = sum(name in "TVYN" and index in np.atleast_1d(result) for name, result in ended)
                assert sent <= came + (index in received), "what was sent was not received"
        closed = any(name == "V" and result == CLOSED for name, result in ended)
        assert deaths or not (closed and received), "a receiver was told that nothing was left, and then it came"
        assert sum(name.isdigit() and result == OK for name, result in ended) <= 1, "two puts of one buffer were done"
        if stamps:
            assert data.sum() == sum(name == "G" and result >= 0 for name, result in ended), "a stamp was overwritten"

    def always(nodes):
        sleepers[:] = [node for node in nodes if node.on]
        out = [index for node in nodes for index in holds(node.name, node.got)]
        assert len(out) == len(set(out)), "a buffer has two owners that live"

    made, sleepers = [], []
    exact = set("".join(scripts)) <= set("GP.") and not before and not held
    options = {"always": always}
    if deaths:
        options["locks"] = {thread: (TABLE, word_of(1 + thread)) for thread in range(len(scripts))}
    if limits or set("XY") & set("".join(scripts)):
        options["clock"] = lambda: load(clock, 0, "seq_cst")
    return program, Spec(frozenset(range(capacity)), steps) if exact else None, check, options


def steps(free, name, got):
    if name in "GP":
        yield from pooled(free, name, got)
    else:
        yield {".": 1, "holds": got, "has": None}[name], free


def drained(take, source):
    found = []
    while (index := take(source)) >= 0:
        found.append(index)
    return found


def holds(name, got):
    """Return what a process certainly has during an operation, whose name and beginning these are."""
    return () if name in "DU" else got[1:] if name in "PSK" else got


def happened(letter, dead, idle):
    """Let something have come to pass; return with which buffer."""
    pool, channel = dead.pool, dead.channel
    if letter == "e":
        put_item(pool._queue, pool.capacity - 1)
        return None
    index = free_list.take(idle.pool if letter == "i" else pool)
    place = owner_at(pool, index)
    if letter == "m":
        pool._owners[place] *= -1
    elif letter == "f":
        pool._owners[place] = FREE
    elif letter == "s":
        channels.give(channel, index)
    elif letter == "t":
        pool._owners[place] = channel._transit
    return index


def letters(process, data):
    """Return the operations of a process by their letters, all of which say what they have done."""
    pool, channel, table = process.pool, process.channel, process.pool._slots

    def taking(take):
        def operation(got):
            index = take()
            if index >= 0:
                got.append(index)
            return index

        return operation

    def get_and_stamp():
        index = free_list.take(pool)
        if index >= 0 and data is not None:
            store(data, index, load(data, index, "relaxed") + 1, "relaxed")
        return index

    def taking_two(take):
        def operation(got):
            out = np.zeros(2, np.int64)
            taken = out[: take(out)].tolist()
            got.extend(taken)
            return tuple(taken)

        return operation

    def put_back(got):
        assert not got or free_list.give(pool, got.pop(0)) == OK, "a put of what the process held was refused"
        return True

    def put_all(got):
        assert free_list.give_many(pool, np.array(got, np.int64), len(got)) == -1, "a bulk put was refused"
        got.clear()

    def put_twice(got):
        assert free_list.give_many(pool, np.array([got[0], got[0]]), 2) == 1, "one buffer was put twice at once"

    def sending(send):
        def operation(got):
            status = send(channel, got[0]) if got else EMPTY
            assert status != NOT_OUT, "what the process held could not be sent"
            return got.pop(0) if status == OK else EMPTY

        return operation

    def send_all(got):
        sent = got[: channels.give_many(channel, np.array(got, np.int64), len(got))]
        del got[: len(sent)]
        return tuple(sent)

    def get_in_time():
        owed = not processes.is_locked(table, 1, -1)
        index = waiting.wait_to_get(pool, LOOK_NS)
        assert index >= 0 or not owed, "what a dead process had was not found in time"
        return index

    def receive_in_time():
        dead = not processes.is_locked(table, 1, -1)
        owed = dead and load(pool._owners, owner_at(pool, 0)) == channel._transit
        index = waiting.wait_to_get(channel, LOOK_NS)
        assert index >= 0 or not owed, "what was in transit was not found in time"
        return index

    def join(got):
        number = ProcessSlot(table, -1, partial(processes.take_from, pool)).number
        store(pool._local, IDENTITY, number << NUMBER_SHIFT, "relaxed")

    def leave(got):
        slot = ProcessSlot.__new__(ProcessSlot)
        slot.index, slot.number = process.slot, first_number(process.slot)
        slot._mapping = table, word_of(process.slot)
        slot.release(table)

    code = {
        "G": taking(get_and_stamp),
        "B": taking_two(lambda out: free_list.take_many(pool, out, 0, 2, False)),
        "W": taking(lambda: waiting.wait_to_get(pool, -1)),
        "P": put_back,
        "D": put_all,
        "M": put_twice,
        "S": sending(channels.give),
        "K": sending(lambda channel, index: waiting.wait_to_put(channel, index, -1)),
        "T": taking(lambda: channels.take_next(channel)),
        "U": send_all,
        "N": taking_two(lambda out: channels.take_many(channel, out, 2)),
        "V": taking(lambda: waiting.wait_to_get(channel, -1)),
        "R": lambda got: processes.recover(pool),
        "E": lambda got: channels.resend(channel),
        "C": lambda got: channels.close_channel(channel),
        "X": taking(get_in_time),
        "Y": taking(receive_in_time),
        "+": lambda got: fetch_add(clock, 0, LOOK_NS, "seq_cst"),
        "J": join,
        "L": leave,
        ".": lambda got: load(table, word_of(process.slot), "relaxed"),
    }
    for index in range(pool.capacity):
        code[str(index)] = lambda got, index=index: free_list.give(pool, index)
    return {letter: (letter, operation) for letter, operation in code.items()}


made = partial(case, process_case, cls=Case)
one, two = partial(made, deaths=1), partial(made, deaths=2)
asleep = partial(made, limits=True, deaths=1)  # a park that lost its wake-up to a dead one ends after LOOK_NS

GETS = [
    (1, ("GP.", "GP.")),
    (1, ("GP.", "RG")),
    (2, ("B.", "RG")),
    (1, ("D.", "RG"), "", (1,)),
    (1, ("M.", "RG"), "", (1,)),
    (1, ("0.", "R"), "h"),
]
RECOVERIES = [(1, ("R.", "RG"), "h"), (1, ("R.", "RG"), "m"), (1, ("R.", "RG"), "f"), (1, ("JG.", "RG"), "h")]
MESSAGES = [
    (1, ("S.", "ETP"), "", (1,)),
    (1, ("TP.", "RG"), "s"),
    (1, ("T.", "ET"), "t"),
    (1, ("E.", "ET"), "t"),
    (1, ("N.", "ET"), "s"),
    (2, ("U.", "N"), "", (2,)),
    (2, ("S.", "S", "ET"), "", (1, 1), 1),
]
IN_TIME = [
    (1, ("G.", "X", "+")),
    (1, ("P.", "X", "+"), "", (1,)),
    (1, ("S.", "Y", "+"), "", (1,)),
    (1, (".", "X", "+"), "h"),
    (1, (".", "Y", "+"), "t"),
]
WAITS = [
    (1, ("W", "PGP"), "", (0, 1)),
    (2, ("WW", "PP"), "", (0, 2)),
    (1, ("S", "V"), "", (1,)),
    (2, ("K", "TT"), "s", (1,), 1),
    (1, ("SC", "V"), "", (1,)),
    (2, ("W", "W", "D"), "", (0, 0, 2)),
]
SLEEPS = [
    (1, ("W.", "P."), "", (0, 1)),
    (1, ("S.", "V."), "", (1,)),
    (1, ("SC.", "V"), "", (1,)),
    (2, ("K.", "TT."), "s", (1,), 1),
    (1, ("W", "P.", "W"), "", (0, 1)),
    (2, ("S", "S.", "V", "V"), "", (1, 1)),
]
STAMPED = [(1, ("GP", "GP")), (1, ("GP", "G"), "e"), (1, ("RG", "RG"), "h")]

#: Those that take a moment.
CASES = [
    made(1, ("GP", "GP")),
    made(2, ("GP", "GP")),
    made(1, ("0", "0"), "i"),
    made(1, ("M",), "", (1,)),
    made(1, ("B", "G"), "e"),
    made(2, ("W", "P"), "iee", (0, 1)),
    made(2, ("S", "T"), "s", (1,), 1),
    made(1, ("W", "R"), "h"),
    made(1, ("W", "P", "R"), "", (0, 1), preemptions=2),
    made(1, ("V", "K", "E"), "", (0, 1), preemptions=2),
    made(1, ("RG", "RG"), "h"),
    made(1, ("JG", "RG"), "h"),
    made(1, ("PL", "R"), "", (1,)),
    made(1, ("S", "ET", "T"), "", (1,)),
    *(made(*arguments) for arguments in WAITS[:5]),
    made(*WAITS[5], preemptions=1),
    *(one(*arguments, alone=60) for arguments in GETS),
    *(one(*arguments) for arguments in RECOVERIES),
    two(*RECOVERIES[0]),
    *(one(*arguments) for arguments in MESSAGES[:6]),
    one(*MESSAGES[6], preemptions=1),
    *(one(*arguments) for arguments in IN_TIME),
    one(2, ("D.", "RG"), "", (2,), preemptions=2),
    *(asleep(*arguments) for arguments in SLEEPS[:4]),
    asleep(*SLEEPS[4], preemptions=1),
    *(one(*arguments, memory=TSO) for arguments in (*GETS[:2], *GETS[3:5], RECOVERIES[0], *MESSAGES[:4])),
    *(made(*arguments, memory=TSO) for arguments in WAITS[:5]),
    *(made(*arguments, stamps=True, memory=Relaxed) for arguments in STAMPED),
    *(one(*arguments, memory=Relaxed) for arguments in (GETS[1], *MESSAGES[:2])),
    *(made(*arguments, memory=Relaxed) for arguments in WAITS[1:4]),
    *(made(1, ("S", "CV"), "", (1,), memory=memory) for memory in (SC, TSO, Relaxed)),
]
#: Those that take seconds, and where they would take more, only part of their schedules.
LARGE = [
    made(*WAITS[5]),
    made(1, ("W", "P", "GP"), "", (0, 1), preemptions=3),
    made(2, ("W", "W", "R"), "hf", preemptions=2),
    one(2, ("D.", "RG"), "", (2,), preemptions=3),
    one(1, ("GP.", "R", "RG"), preemptions=2),
    two(1, ("R.", "R.", "G"), "h", preemptions=1),
    two(*RECOVERIES[3]),
    one(*MESSAGES[6], preemptions=2),
    two(1, ("S.", "ETP.", "RG"), "", (1,), preemptions=1),
    one(1, ("T.", "R", "ET"), "s", preemptions=2),
    one(1, ("R", "X", "+"), "h"),
    made(1, ("S", "C", "V"), "", (1,)),
    made(1, ("S", "C", "V"), "", (1,), memory=Relaxed, preemptions=3),
    *(one(*arguments, risings=1) for arguments in IN_TIME[1:3]),
    asleep(*SLEEPS[4], preemptions=2),
    asleep(*SLEEPS[5], preemptions=1),
    *(one(*arguments, memory=TSO) for arguments in (*RECOVERIES[2:], *IN_TIME)),
    made(*WAITS[5], memory=TSO, preemptions=2),
    *(made(*arguments, memory=Relaxed) for arguments in (WAITS[0], WAITS[4])),
    *(one(*arguments, memory=Relaxed) for arguments in (*GETS[2:], RECOVERIES[0], RECOVERIES[3], *MESSAGES[2:6])),
    *(one(*arguments, memory=Relaxed) for arguments in IN_TIME[:3]),
]
