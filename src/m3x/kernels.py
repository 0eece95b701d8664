# mypy: ignore-errors
"""Compiled primitives: unaligned loads and stores, prefetch, comparison, copy and hashes. Protobuf is in ``m3x.protobuf``.

Everything here is ``@njit`` and small enough to be inlined into the kernels that call it. Addresses are ``uint64`` (``base(array)``
plus an offset); a caller checks bounds before it loads.
"""

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _load(bits: int, signature: types.Type):
    @intrinsic
    def load(_context, _address):
        def generate(_c, builder, _s, args):
            pointer = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            return builder.load(pointer, align=1)

        return signature(types.uint64), generate

    return load


load64 = _load(64, types.uint64)
"""``load64(address) -> uint64``: eight bytes, little endian, any alignment."""
load32 = _load(32, types.uint32)
"""``load32(address) -> uint32``: four bytes, little endian, any alignment."""
load16 = _load(16, types.uint16)
"""``load16(address) -> uint16``: two bytes, little endian, any alignment."""
load8 = _load(8, types.uint8)
"""``load8(address) -> uint8``: one byte."""


@intrinsic
def load_double(_context, _address):
    """``load_double(address) -> float64``: eight bytes as an IEEE-754 double, any alignment."""

    def generate(_c, builder, _s, args):
        pointer = builder.inttoptr(args[0], ir.DoubleType().as_pointer())
        return builder.load(pointer, align=1)

    return types.float64(types.uint64), generate


@intrinsic
def copy32(_context, _target, _source):
    """``copy32(target, source)``: 32 bytes between addresses, any alignment; the ranges may overlap."""

    def generate(context, builder, _s, args):
        vector = ir.VectorType(ir.IntType(8), 32).as_pointer()
        value = builder.load(builder.inttoptr(args[1], vector), align=1)
        builder.store(value, builder.inttoptr(args[0], vector), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), generate


@intrinsic
def same32(_context, _a, _b):
    """``same32(a, b) -> bool``: whether the 32 bytes at two addresses are equal, any alignment."""

    def generate(_c, builder, _s, args):
        a, b = (_load32_bytes(builder, address) for address in args)
        return _is_zero(builder, builder.xor(a, b))

    return types.boolean(types.uint64, types.uint64), generate


@intrinsic
def like32(_context, _address, _pattern):
    """``like32(address, pattern) -> bool``: whether 32 bytes, any alignment, are as the pattern says.

    A pattern is a mask of 32 bytes, and then what those bits are that the mask has.
    """

    def generate(_c, builder, _s, args):
        mask = _load32_bytes(builder, args[1])
        wanted = _load32_bytes(builder, builder.add(args[1], ir.Constant(ir.IntType(64), 32)))
        found = builder.and_(_load32_bytes(builder, args[0]), mask)
        return _is_zero(builder, builder.xor(found, wanted))

    return types.boolean(types.uint64, types.uint64), generate


def _load32_bytes(builder, address):
    pointer = builder.inttoptr(address, ir.VectorType(ir.IntType(64), 4).as_pointer())
    return builder.load(pointer, align=1)


def _is_zero(builder, vector):
    whole = ir.IntType(256)
    return builder.icmp_unsigned("==", builder.bitcast(vector, whole), ir.Constant(whole, 0))


def _store(bits: int):
    @intrinsic
    def store(_context, _address, _value):
        def generate(context, builder, _s, args):
            number = ir.IntType(bits)
            value = builder.trunc(args[1], number) if bits < 64 else args[1]
            builder.store(value, builder.inttoptr(args[0], number.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), generate

    return store


store64 = _store(64)
"""``store64(address, value)``: eight bytes, little endian, any alignment."""
store32 = _store(32)
"""``store32(address, value)``: the lowest four bytes of a ``uint64``, little endian, any alignment."""
store8 = _store(8)
"""``store8(address, value)``: the lowest byte of a ``uint64``."""


def record_of(dtype):
    """``record_of(dtype)(address)``: the record of that dtype at a ``uint64`` address; nothing keeps its memory alive."""
    kind = from_dtype(dtype)

    @intrinsic
    def record(_context, _address):
        def generate(context, builder, _s, args):
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.uint64), generate

    return record


@intrinsic
def double_bits(_context, _value):
    """``double_bits(x) -> uint64``: the IEEE-754 pattern of ``x``."""

    def generate(_c, builder, _s, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), generate


@intrinsic
def prefetch(_context, _address):
    """``prefetch(address)``: ask for the cache line; never faults, so the address need not be valid."""

    def generate(context, builder, _s, args):
        i32 = ir.IntType(32)
        byte_pointer = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte_pointer, i32, i32, i32]), "llvm.prefetch.p0"
        )
        builder.call(function, [builder.inttoptr(args[0], byte_pointer), i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@njit(cache=True, nogil=True, inline="always")
def base(array):
    """Address of the first byte of ``array``."""
    return np.uint64(array.ctypes.data)


@njit(cache=True, nogil=True)
def bytes_equal(a, b, n):
    """Whether the ``n`` bytes at address ``a`` equal those at address ``b``, 32 at a time, or eight."""
    k = np.uint64(0)
    n = np.uint64(n)
    if n >= np.uint64(32):
        last = n - np.uint64(32)
        while k < last:
            if not same32(a + k, b + k):
                return False
            k += np.uint64(32)
        return same32(a + last, b + last)
    while k + np.uint64(8) <= n:
        if load64(a + k) != load64(b + k):
            return False
        k += np.uint64(8)
    if k == n:
        return True
    if n >= np.uint64(8):
        return load64(a + n - np.uint64(8)) == load64(b + n - np.uint64(8))
    if n >= np.uint64(4):
        return load32(a) == load32(b) and load32(a + n - np.uint64(4)) == load32(b + n - np.uint64(4))
    if n >= np.uint64(2):
        return load16(a) == load16(b) and load16(a + n - np.uint64(2)) == load16(b + n - np.uint64(2))
    return load8(a) == load8(b)


@njit(cache=True, nogil=True)
def copy_short(target, source, n):
    """Copies ``n`` (uint64) bytes between addresses, for a few hundred of them quicker than a call; the ranges do not overlap."""
    k = np.uint64(0)
    if n >= np.uint64(32):
        last = n - np.uint64(32)
        while k < last:
            copy32(target + k, source + k)
            k += np.uint64(32)
        copy32(target + last, source + last)
    else:
        while k < n:
            store8(target + k, load8(source + k))
            k += np.uint64(1)


@njit(cache=True, nogil=True)
def copy_bytes(target, at, source, start, n):
    """``target[at:at+n] = source[start:start+n]``; the ranges do not overlap. Returns ``at + n``."""
    to = base(target) + np.uint64(at)
    come = base(source) + np.uint64(start)
    k = 0
    while k + 8 <= n:
        store64(to + np.uint64(k), load64(come + np.uint64(k)))
        k += 8
    while k < n:
        target[at + k] = source[start + k]
        k += 1
    return at + n


@njit(cache=True, nogil=True)
def _murmur_block(h, k):
    k = np.uint32(k * np.uint32(0xCC9E2D51))
    k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
    h ^= np.uint32(k * np.uint32(0x1B873593))
    h = np.uint32((h << np.uint32(13)) | (h >> np.uint32(19)))
    return np.uint32(h * np.uint32(5) + np.uint32(0xE6546B64))


@njit(cache=True, nogil=True)
def _murmur_rest(h, address, done, n):
    """The hash of ``n`` bytes of which the first ``done``, whole blocks, are in ``h``."""
    while done + np.uint64(4) <= n:
        h = _murmur_block(h, load32(address + done))
        done += np.uint64(4)
    left = n - done
    if left:
        k = np.uint32(load8(address + done))
        if left > np.uint64(1):
            k |= np.uint32(load8(address + done + np.uint64(1))) << np.uint32(8)
        if left > np.uint64(2):
            k |= np.uint32(load8(address + done + np.uint64(2))) << np.uint32(16)
        k = np.uint32(k * np.uint32(0xCC9E2D51))
        k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
        h ^= np.uint32(k * np.uint32(0x1B873593))
    h ^= np.uint32(n)
    h ^= h >> np.uint32(16)
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h ^= h >> np.uint32(13)
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    h ^= h >> np.uint32(16)
    return h


@njit(cache=True, nogil=True)
def murmur3_32(buf, start, n):
    """MurmurHash3 x86 32-bit with seed 0 of ``buf[start:start+n]``; M3's shard hash (docs/m3/m3msg.md, shard of a metric)."""
    return _murmur_rest(np.uint32(0), base(buf) + np.uint64(start), np.uint64(0), np.uint64(n))


@njit(cache=True, nogil=True)
def murmur3_32_seeded(address, n, seed):
    """MurmurHash3 x86 32-bit of the ``n`` bytes (uint64) at ``address``; ``seed`` is a ``uint32``."""
    return _murmur_rest(seed, address, np.uint64(0), n)


@njit(cache=True, nogil=True)
def murmur3_32_of_four(addresses, sizes, i, hashes):
    """``murmur3_32`` of the four byte ranges at ``addresses[i:i+4]`` with ``sizes[i:i+4]`` bytes (uint64), into ``hashes[i:i+4]`` (uint32).

    The hash of one range is a chain in which every step waits for the one before; four chains side by side cost little more than one.
    """
    a0, a1, a2, a3 = addresses[i], addresses[i + 1], addresses[i + 2], addresses[i + 3]
    n0, n1, n2, n3 = sizes[i], sizes[i + 1], sizes[i + 2], sizes[i + 3]
    shortest = min(n0, n1, n2, n3)
    h0 = h1 = h2 = h3 = np.uint32(0)
    k = np.uint64(0)
    while k + np.uint64(4) <= shortest:
        h0 = _murmur_block(h0, load32(a0 + k))
        h1 = _murmur_block(h1, load32(a1 + k))
        h2 = _murmur_block(h2, load32(a2 + k))
        h3 = _murmur_block(h3, load32(a3 + k))
        k += np.uint64(4)
    hashes[i] = _murmur_rest(h0, a0, k, n0)
    hashes[i + 1] = _murmur_rest(h1, a1, k, n1)
    hashes[i + 2] = _murmur_rest(h2, a2, k, n2)
    hashes[i + 3] = _murmur_rest(h3, a3, k, n3)


@njit(cache=True, nogil=True)
def _mix(a):
    a = np.uint64(a)
    a ^= a >> np.uint64(32)
    a *= np.uint64(0xD6E8FEB86659FD93)
    a ^= a >> np.uint64(32)
    a *= np.uint64(0xD6E8FEB86659FD93)
    a ^= a >> np.uint64(32)
    return a


@njit(cache=True, nogil=True)
def hash_bytes(address, n, seed):
    """A 64-bit hash of ``n`` bytes for tables inside one process (two lanes of multiply-rotate); never stored or sent."""
    m = np.uint64(0x9E3779B97F4A7C15)
    a = np.uint64(seed) ^ (np.uint64(n) * m)
    b = ~a
    k = np.uint64(0)
    size = np.uint64(n)
    while k + np.uint64(16) <= size:
        a = (a ^ load64(address + k)) * m
        b = (b ^ load64(address + k + np.uint64(8))) * np.uint64(0xC2B2AE3D27D4EB4F)
        a = (a << np.uint64(29)) | (a >> np.uint64(35))
        b = (b << np.uint64(31)) | (b >> np.uint64(33))
        k += np.uint64(16)
    if k + np.uint64(8) <= size:
        a = (a ^ load64(address + k)) * m
        a = (a << np.uint64(29)) | (a >> np.uint64(35))
        k += np.uint64(8)
    if k < size:
        if size >= np.uint64(8):
            word = load64(address + size - np.uint64(8))
        else:
            word = np.uint64(0)
            while k < size:
                word = (word << np.uint64(8)) | np.uint64(load8(address + k))
                k += np.uint64(1)
        b = (b ^ word) * np.uint64(0xC2B2AE3D27D4EB4F)
        b = (b << np.uint64(31)) | (b >> np.uint64(33))
    return _mix(a ^ _mix(b))
