"""Frames for engine tests, written out plainly (docs/m3/m3msg.md, message and ack)."""


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def frame(value: bytes, shard: int = 3, ident: int = 1) -> bytes:
    """One m3msg frame that carries ``value``."""
    meta = b"\x08" + varint(shard) + b"\x10" + varint(ident)
    body = b"\x0a" + varint(len(meta)) + meta
    if value:
        body += b"\x12" + varint(len(value)) + value
    return len(body).to_bytes(4, "big") + body
