"""Requests of Remote Write 2.0 from columns: the kernels against the requests of 1.0 for the same rows."""

from dataclasses import replace
from typing import Any

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.prom_remote.batches import T0_NS, id_of, values_of
from tests.coordinator.sinks.prom_remote.test_encoding import IDS, rows

from coordinator.prompb import REQUEST_2, WRITE_REQUEST
from coordinator.sinks.metric_types import NOTHING, Described
from coordinator.sinks.prom_remote.labels import LabelFields, LabelRules
from coordinator.sinks.prom_remote.symbols import SymbolEncoder
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import Values
from m3metrics.ids import encode_tags
from m3x.protobuf import unmarshal

ENCODER = SymbolEncoder()


def as_1(message: bytes) -> list[dict[str, Any]]:
    """The series of a request of 2.0 as 1.0 has them, with ``type``; every symbol is there once, and needed."""
    request = unmarshal(REQUEST_2, message)
    symbols = request["symbols"]
    assert symbols[0] == b""
    assert len(set(symbols)) == len(symbols)
    found, needed = [], {0}

    def text(metadata: dict[str, Any], key: str) -> bytes:
        ref: int = metadata.get(key, 0)
        needed.add(ref)
        found: bytes = symbols[ref]
        return found

    for one in request["timeseries"]:
        refs = one["labels_refs"]
        needed |= set(refs)
        texts = [symbols[ref] for ref in refs]
        pairs = zip(texts[::2], texts[1::2], strict=True)
        labels = [{"name": name, "value": value} if value else {"name": name} for name, value in pairs]
        metadata = one.get("metadata", {})
        kind, words = metadata.get("type", 0), (text(metadata, "help_ref"), text(metadata, "unit_ref"))
        said = {**({"type": kind} if kind else {}), **({"said": words} if any(words) else {})}
        found.append({"labels": labels, "samples": one["samples"], **said})
    assert needed == set(range(len(symbols)))
    return found


def both(batch: Values, chosen: np.ndarray[Any, Any], labels: LabelFields) -> None:
    labels.require(batch.table, batch.series)
    ours = as_1(ENCODER.request_2(batch, chosen, labels).tobytes())
    theirs = unmarshal(WRITE_REQUEST, ENCODER.request(batch, chosen, labels).tobytes())["timeseries"]
    assert repr(ours) == repr(theirs), "NaN is not equal to itself"


@given(rows, st.data())
def test_the_same_as_in_version_1(listed: list[tuple[bytes, float, int]], data: st.DataObject) -> None:
    batch = values_of(listed)
    chosen = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, unique=True).map(sorted))
    both(batch, np.array(chosen, np.int64), LabelFields(LabelRules()))


def test_texts_have_their_numbers_from_request_to_request() -> None:
    table, labels = SeriesTable(), LabelFields(LabelRules())
    for first in range(0, 3000, 500):
        # Every other series is known.
        listed = [(id_of(f"m{i % 7}", host=f"h{i}"), float(i), T0_NS) for i in range(max(first - 250, 0), first + 500)]
        batch = values_of(listed, table)
        both(batch, np.arange(len(batch)), labels)


def test_a_series_of_many_labels_and_one_with_an_empty_value() -> None:
    rules = LabelRules(allow_empty_values=True)
    many = encode_tags([(b"__name__", b"m"), *((b"l%05d" % i, b"v%d" % i) for i in range(9000))])
    batch = values_of([(many, 1.0, T0_NS), (id_of("b", x=""), 2.0, T0_NS), (IDS[0], 3.0, T0_NS)])
    both(batch, np.arange(3), LabelFields(rules))


def test_types_come_with_their_series() -> None:
    batch = values_of([(id_of("a"), 1.0, T0_NS), (id_of("b"), 2.0, T0_NS), (id_of("c"), 3.0, T0_NS)])
    labels = LabelFields(LabelRules())
    labels.require(batch.table, batch.series)
    # Of what came last nothing is known yet.
    known = replace(NOTHING, types=np.array([3, 0], np.uint8), names=np.zeros(2, np.int32))
    body = ENCODER.body_2(batch, np.arange(3), labels, known)
    series = as_1(bytes(cramjam.snappy.decompress_raw(body)))
    assert [one.get("type", 0) for one in series] == [3, 0, 0]


def test_help_and_unit_come_with_their_series() -> None:
    batch = values_of([(id_of(f"m{i}", host=f"h{i}"), float(i), T0_NS) for i in range(300)])
    labels = LabelFields(LabelRules())
    labels.require(batch.table, batch.series)
    texts = [b"", b"What it is.", b"bytes", b"h5", b"m200"]
    names = np.array([i % 4 for i in range(250)], np.int32)
    helps, units = np.array([0, 1, 3, 0], np.int32), np.array([0, 2, 0, 4], np.int32)
    known = Described(np.ones(250, np.uint8), names, helps, units, texts)
    # What a request says beside labels costs references of one and of two bytes; texts that are labels as well have one number.
    for chosen in (np.arange(300), np.arange(3, 300), np.arange(299, 300), np.arange(2, 3)):
        series = as_1(ENCODER.request_2(batch, chosen, labels, known).tobytes())
        said = [None if i >= 250 else (texts[helps[i % 4]], texts[units[i % 4]]) for i in chosen.tolist()]
        assert [one.get("said") for one in series] == [words if words and any(words) else None for words in said]
        assert [one.get("type", 0) for one in series] == [int(i < 250) for i in chosen.tolist()]
    # Texts that come later have their numbers then.
    texts.append(b"Later.")
    helps[1] = 5
    assert as_1(ENCODER.request_2(batch, np.arange(1, 2), labels, known).tobytes())[0]["said"] == (b"Later.", b"bytes")
