# mypy: ignore-errors
"""Compiled part of crc32: folding with multiplications without carry.

A checksum is the remainder of the data, as a polynomial over bits, by another one. Bits that stand 512 places before others are worth these
times the remainder of x to the power of 512: so 64 bytes are multiplied and added to the 64 behind them, until these are the last; four
times 128 bits then become one. Bits are in the order of zlib's crc32: the first one is the lowest of its byte.
"""

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic

BLOCK = 64
_POLYNOMIAL = 0xEDB88320


def possible() -> bool:
    """Whether this processor can, and kernels are compiled for it."""
    return not config.CPU_NAME and not config.CPU_FEATURES and bool(binding.get_host_cpu_features().get("pclmul"))


def _power(n: int) -> int:
    """The remainder of x to the power of ``n``, as a factor."""
    r = 1 << 31
    for _ in range(n):
        r = (r >> 1) ^ (_POLYNOMIAL if r & 1 else 0)
    return r << 1


_FURTHER = tuple((_power(bits + 32), _power(bits - 32)) for bits in (512, 128))
"""Factors of the lower and the upper eight bytes of sixteen that stand so many bits further on."""


@intrinsic
def _fold(_context, _address, _blocks, _start):
    """``_fold(address, blocks, start)``: the last sixteen bytes that the ``blocks`` times 64 bytes become, in two words; ``start`` is added
    to the first word."""

    def generate(context, builder, signature, args):
        address, blocks, start = args
        i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        pair = ir.VectorType(i64, 2)
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(pair, [pair, pair, i8]), "llvm.x86.pclmulqdq"
        )
        far, near = (ir.Constant(pair, list(factors)) for factors in _FURTHER)

        def load(at, k):
            place = builder.inttoptr(builder.add(at, i64(16 * k)), pair.as_pointer())
            return builder.load(place, align=1)

        def add(x, factors, y):
            products = (builder.call(multiply, [x, factors, i8(which)]) for which in (0x00, 0x11))
            return builder.xor(builder.xor(*products), y)

        first = builder.insert_element(ir.Constant(pair, [0, 0]), start, i32(0))
        parts = [load(address, k) for k in range(4)]
        parts[0] = builder.xor(parts[0], first)
        kept = [cgutils.alloca_once_value(builder, part) for part in parts]
        with cgutils.for_range(builder, builder.sub(blocks, i64(1))) as loop:
            at = builder.add(address, builder.mul(builder.add(loop.index, i64(1)), i64(BLOCK)))
            for k, place in enumerate(kept):
                builder.store(add(builder.load(place), far, load(at, k)), place)
        whole = builder.load(kept[0])
        for place in kept[1:]:
            whole = add(whole, near, builder.load(place))
        words = [builder.extract_element(whole, i32(k)) for k in range(2)]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.int64, types.uint64), generate


@njit(cache=True, nogil=True)
def fold(address, blocks, start):
    """Sixteen bytes, as two words, of which the rest by zlib's polynomial is that of the ``blocks`` (int64, at least one) times 64 bytes at
    ``address`` (uint64), ``start`` (uint64) added to the first eight."""
    return _fold(address, blocks, start)
