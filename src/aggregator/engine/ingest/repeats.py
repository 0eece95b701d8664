# mypy: ignore-errors
"""Compiled set of messages that were applied and may come again, as their acks may not have reached who sent them.

A message is known by what it does and who it is: the entry, the values, the time, and a key of its shard, its id and its producer's
host. Ids alone begin anew with every producer; the same id with the same values of the same series from the same host is the same message.
Words of the table are 64-bit hashes of all that, 0: free, 1: taken out. It is filled after a replay, when a connection was cut, and with
what waits long for its ack; otherwise it is empty, and costs nothing.

Filled, it is looked at only for messages of whose *block*, 4,096 ids of a shard and host that follow each other, some may come again: a
bit for each block, 128 KiB in all, which stay in the cache, while the table of a busy connection does not. What a producer sends anew has
other ids.

A producer numbers the messages of a shard in the order in which it sends them first. So one that comes over a connection behind a
later one of its shard is sent again (``comes_again``), though nothing was late here: the network has held what it was waiting for. Then
all that this connection has brought of late is entered before it is applied.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3metrics.rows import Payload
from m3x.kernels import base, double_bits, hash_bytes, load64, prefetch

_1 = np.uint64(1)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_A = np.uint64(0x9E3779B97F4A7C15)
_B = np.uint64(0xD6E8FEB86659FD93)
_FIRST = 1 << 10
_AHEAD = 16
"""So many messages before a word is written it is asked for."""
_BLOCK = np.uint32(12)
_SHIFT = np.uint64(64 - layout.MARKS.bit_length() + 1)
_6 = np.uint32(6)
_63 = np.uint64(63)


@njit(cache=True, nogil=True)
def _mix(a):
    a ^= a >> _32
    a *= _B
    a ^= a >> _32
    a *= _B
    return a ^ (a >> _32)


@njit(cache=True, nogil=True)
def comes_again(marks, connection, frames, start, stop):
    """Whether one of the messages ``frames[start:stop]`` (FRAME_ROW) of a connection (uint64) is not newer than one of its shard that came
    before it; notes the newest ones in ``marks`` (MARK).

    Ids that differ in their upper halves are of different sequences: a coordinator numbers each request that it answers for in a range of
    its own.
    """
    found = False
    of = (connection + _1) * _A
    for i in range(start, stop):
        f = frames[i]
        whose = (of ^ f.shard ^ (f.id >> _32) << _32) * _B
        mark = marks[np.int64(whose >> _SHIFT)]
        if mark.whose != whose:
            mark.whose = whose
            mark.newest = f.id
        elif f.id > mark.newest:
            mark.newest = f.id
        else:
            found = True
    return found


@njit(cache=True, nogil=True)
def message_key(shard, ident, host):
    """32 bits of a message's shard and id (both uint64), and of the host it came from (uint32).

    A producer counts its messages: ids that follow each other have different keys, as far as 2^32 of them. Many series say the same value
    again and again (a counter of ones), and a hash would make two of their millions of messages one.
    """
    whose = _mix((shard + _1) * _A ^ np.uint64(host) * _B ^ ident >> _32)
    return np.uint32(whose >> _32) ^ np.uint32(ident & _LOW)


@njit(cache=True, nogil=True)
def content(buf, row, at, key):
    """The hash of message ``row`` (METRIC_ROW, ranges in ``buf``) to entry ``at``; never 0 or 1."""
    values = base(buf) + np.uint64(row.values_at)
    if row.payload == Payload.COUNTER:
        value = np.uint64(row.count)
    elif row.values_size == 8 and row.version == 0:
        value = np.uint64(load64(values))
    elif row.values_size != 0:
        value = hash_bytes(values, np.uint64(row.values_size), np.uint64(row.version))
    elif row.payload in (Payload.TIMERS, Payload.FORWARDED):
        value = np.uint64(0)
    else:
        value = np.uint64(double_bits(row.value))
    h = _mix(np.uint64(at) << _32 | np.uint64(key))
    return _mix(_mix(h ^ value * _A) ^ np.uint64(row.time_ns)) | np.uint64(2)


@njit(cache=True, nogil=True)
def _put(t, word):
    words = v.repeats(t)
    mask = v.head(t).repeats_mask
    at = np.int64(word >> _32) & mask
    while words[at] > _1:
        at = (at + 1) & mask
    v.head(t).repeats_used += words[at] == np.uint64(0)
    words[at] = word


@njit(cache=True, nogil=True)
def _make_room(t, n):
    """Makes the table large enough for ``n`` more messages, in place; whether there is room for so many."""
    head = v.head(t)
    size = head.repeats_mask + 1 if head.repeats_mask else 0
    if 2 * (head.repeats_used + n) < size:
        return True
    wide = max(size, _FIRST)
    while wide < 3 * (head.repeats + n):
        wide *= 2
    if wide > 2 * layout.MAX_REPEATS:
        return False
    words = v.repeats(t)
    # The words wait behind the new table, where a later one will be. They come in order of their homes, and so do the new ones.
    for k in range(size):
        words[wide + k] = words[k]
    for k in range(wide):
        words[k] = np.uint64(0)
    head.repeats_mask = wide - 1
    head.repeats_used = 0
    for k in range(wide, wide + size):
        word = words[k]
        words[k] = np.uint64(0)
        if word > _1:
            _put(t, word)
    return True


@njit(cache=True, nogil=True)
def _enter(t, word, key):
    """There is room for it."""
    _put(t, word)
    v.head(t).repeats += 1
    block = key >> _BLOCK
    v.repeat_blocks(t)[block >> _6] |= _1 << (np.uint64(block) & _63)


@njit(cache=True, nogil=True)
def expect_repeats(t, words):
    """Enters messages (REPEAT, those with ``content`` 0 left out); beyond ``MAX_REPEATS`` they are left out as well."""
    if not _make_room(t, len(words)):
        return
    table = base(v.repeats(t))
    mask = v.head(t).repeats_mask
    for k in range(len(words) + _AHEAD):
        if k < len(words):
            prefetch(table + np.uint64((np.int64(words[k].content >> _32) & mask) << 3))
        if k >= _AHEAD and words[k - _AHEAD].content != np.uint64(0):
            _enter(t, words[k - _AHEAD].content, words[k - _AHEAD].key)


@njit(cache=True, nogil=True)
def expect_once_more(t, buf, row, hint):
    """Enters a message that was applied, or was recognised (HINT)."""
    at = np.int64(hint.entry >> 1) if hint.entry >= 0 else np.int64(layout.REPEATED) - hint.entry
    if at >= 0 and _make_room(t, 1):
        _enter(t, content(buf, row, at, hint.key), hint.key)


@njit(cache=True, nogil=True)
def may_repeat(t, key):
    """Whether a message of that ``message_key`` may be one that comes again."""
    block = key >> _BLOCK
    return v.repeat_blocks(t)[block >> _6] >> (np.uint64(block) & _63) & _1 != 0


@njit(cache=True, nogil=True)
def ask_for_repeat(t, buf, row, at, key):
    """Has the word brought that ``take_repeat`` will look at for a message, most likely to entry ``at``."""
    if may_repeat(t, key):
        place = np.int64(content(buf, row, at, key) >> _32) & v.head(t).repeats_mask
        prefetch(base(v.repeats(t)) + np.uint64(place << 3))


@njit(cache=True, nogil=True)
def take_repeat(t, buf, row, at, key):
    """Whether a message was applied before; it is expected no more then."""
    if not may_repeat(t, key):
        return False
    word = content(buf, row, at, key)
    words = v.repeats(t)
    mask = v.head(t).repeats_mask
    place = np.int64(word >> _32) & mask
    while words[place] != np.uint64(0):
        if words[place] == word:
            words[place] = _1
            v.head(t).repeats -= 1
            v.counts(t)[why.C_REDELIVERED] += 1
            return True
        place = (place + 1) & mask
    return False
