"""Help and unit of metric families out of requests of Remote Write 2.0."""

from pathlib import Path
from typing import Any

import cramjam

from coordinator import prompb
from coordinator.write import kernels
from coordinator.write.declared import AGAIN_S, Declared
from coordinator.write.decoding import RequestDecoder
from coordinator.write.options import REMOTE_WRITE_2, WriteOptions
from m3x.protobuf import marshal

VECTOR = Path(__file__).parent / "vectors" / "prometheus_3.body"
OPTIONS = WriteOptions(dialect=REMOTE_WRITE_2)
Said = dict[bytes, tuple[bytes, bytes]]


def body(symbols: list[bytes], series: list[dict[str, Any]]) -> bytes:
    return bytes(cramjam.snappy.compress_raw(marshal(prompb.REQUEST_2, {"symbols": symbols, "timeseries": series})))


class Told:
    """Somebody who is told, and a clock."""

    def __init__(self, chance: float = 0.0) -> None:
        self.said: list[tuple[bytes, bytes, bytes]] = []
        self.now_s = 0.0
        self.chance = chance
        declared = Declared(lambda *one: self.said.append(one), lambda: self.chance, lambda: self.now_s)
        self._decoder = RequestDecoder(declared=declared)

    def look(self, data: bytes) -> list[tuple[bytes, bytes, bytes]]:
        """What is told of one more request."""
        before = len(self.said)
        self._decoder.decode(data, OPTIONS)
        return self.said[before:]


def sample(**metadata: int) -> dict[str, Any]:
    return {"samples": [{"value": 1.0, "timestamp": 1_700_000_000_000}], "metadata": metadata}


SYMBOLS = [
    b"",
    b"__name__",
    b"took_bucket",
    b"took_sum",
    b"le",
    b"1",
    b"How long it took.",
    b"s",
    b"b",
    b"x" * 2000,
    b"__name_2",
]
SERIES = [
    {"labels_refs": [1, 2, 4, 5], **sample(type=3, help_ref=6, unit_ref=7)},
    {"labels_refs": [1, 3], **sample(type=3, help_ref=6, unit_ref=7)},
    {"labels_refs": [1, 8], **sample(type=1)},
    {"labels_refs": [10, 2, 4, 5], **sample(type=3, help_ref=7)},
    {"labels_refs": [1, 8], **sample(type=1, help_ref=9)},
    {"labels_refs": [1, 8], **sample(type=1, help_ref=300, unit_ref=7)},
]


def test_what_prometheus_3_declares() -> None:
    said = Told().look(VECTOR.read_bytes())
    assert (b"shop_latency_seconds", b"How long it took.", b"") in said
    assert len({family for family, _, _ in said}) == len(said)


def test_each_family_once_until_it_is_another() -> None:
    told = Told()
    assert told.look(body(SYMBOLS, SERIES)) == [(b"took", b"How long it took.", b"s"), (b"b", b"", b"s")]
    assert told.look(body(SYMBOLS, SERIES)) == []
    other = [*SYMBOLS[:6], b"Something else.", *SYMBOLS[7:]]
    assert told.look(body(other, SERIES[:1])) == [(b"took", b"Something else.", b"s")]
    told.now_s = AGAIN_S
    assert told.look(body(other, SERIES[:2])) == [(b"took", b"Something else.", b"s")]


def test_not_every_request_is_looked_at() -> None:
    assert Told(chance=0.99).look(body(SYMBOLS, SERIES)) == []


def test_requests_of_any_shape() -> None:
    told = Told()
    assert told.look(body([b""], [])) == []
    many = [b"", b"__name__", *(b"m%d" % i for i in range(1000)), b"The same."]
    series = [{"labels_refs": [1, 2 + i], **sample(type=2, help_ref=1002)} for i in range(1000)]
    assert told.look(body(many, series)) == [(b"m%d" % i, b"The same.", b"") for i in range(1000)]


def test_is_compiled_at_start_with_the_arguments_of_callers() -> None:
    kernels.warm()
    compiled = set(kernels.declarations.signatures)
    Told().look(body(SYMBOLS, SERIES))
    assert set(kernels.declarations.signatures) == compiled
