"""Which series a shadow target gets: M3's hashes, and requests that say what the headers said."""

import cramjam
import mmh3
import pytest
import xxhash

from coordinator import prompb
from coordinator.config.forwarding import ShadowConfig
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import shadow
from coordinator.write.attributes import PromType
from coordinator.write.decoding import RequestDecoder
from coordinator.write.options import WriteOptions
from coordinator.write.shadow import Chosen, Shadow
from m3x.protobuf import marshal

ORDINARY = WriteOptions()
NAMES = [f"m{number}" for number in range(400)]


def request(*names: str) -> bytes:
    """A compressed request: a series for each name, with labels out of order."""
    series = [
        {
            "labels": [{"name": b"job", "value": b"a"}, {"name": b"__name__", "value": name.encode()}],
            "samples": [{"value": 1.0, "timestamp": 1000}],
        }
        for name in names
    ]
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": series})))


def choose(target: Shadow, body: bytes, options: WriteOptions = ORDINARY) -> Chosen:
    """As a coordinator that got this body."""
    decoded = RequestDecoder().decode(body, options)
    return target.choose(decoded.buf.tobytes(), decoded.series, options)


def sent(chosen: Chosen) -> list[dict[str, object]]:
    """The series of a request, labels as a dictionary."""
    if not chosen.body:
        return []
    series = prompb.decode(bytes(cramjam.snappy.decompress_raw(chosen.body)))
    return [one | {"labels": {label["name"]: label["value"] for label in one["labels"]}} for one in series]


@pytest.mark.parametrize("name", ["", "xxhash", "murmur3"])
@pytest.mark.parametrize("percent", [0.0, 0.0001, 0.29, 0.5, 1.0])
def test_the_hash_of_the_sorted_labels_decides(name: str, percent: float) -> None:
    def hashed(metric: str) -> int:
        identity = f"__name__={metric},job=a".encode()
        return mmh3.hash64(identity, 0, True, False)[0] if name == "murmur3" else xxhash.xxh64_intdigest(identity)

    wanted = [metric for metric in NAMES if hashed(metric) % 10_000 < int(percent * 10_000)]
    target = Shadow(ShadowConfig(percent=percent, hash=name or "xxhash"))  # type: ignore[arg-type]
    for _ in range(2):
        chosen = choose(target, request(*NAMES))
        assert (chosen.kept, chosen.left_out) == (len(wanted), len(NAMES) - len(wanted))
        assert [one["labels"][b"__name__"].decode() for one in sent(chosen)] == wanted  # type: ignore[index]
    assert (chosen.body == b"") is (not wanted)


def test_labels_and_types_of_headers_are_in_the_request() -> None:
    options = WriteOptions(map_tags=((b"job", b"b"), (b"dc", b"x")), prom_type=PromType.COUNTER)
    (one,) = sent(choose(Shadow(ShadowConfig(percent=1.0)), request("up"), options))
    assert one["labels"] == {b"__name__": b"up", b"job": b"b", b"dc": b"x"}
    assert one["type"] == PromType.COUNTER
    assert [(sample["value"], sample["timestamp"]) for sample in one["samples"]] == [(1.0, 1000)]  # type: ignore[attr-defined]


def test_replaced_labels_decide_too() -> None:
    target, mapped = Shadow(ShadowConfig(percent=0.5)), WriteOptions(map_tags=((b"job", b"b"),))
    assert choose(target, request(*NAMES)).kept
    wanted = [metric for metric in NAMES if xxhash.xxh64_intdigest(f"__name__={metric},job=b".encode()) % 10_000 < 5000]
    chosen = choose(target, request(*NAMES), mapped)
    assert [one["labels"][b"__name__"].decode() for one in sent(chosen)] == wanted  # type: ignore[index]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_MOST_REMEMBERED", 16)
    target = Shadow(ShadowConfig(percent=0.5))
    before = choose(target, request(*NAMES)).body
    assert len(target._known) <= 16
    assert choose(target, request(*NAMES)).body == before
