"""What Prometheus 3 sends as Remote Write 2.0, byte for byte.

``vectors/prometheus_3.body`` is a request of Prometheus 3.14 with the features ``metadata-wal-records``, ``st-storage`` and
``exemplar-storage``; ``prometheus_3.json`` has its headers, and the samples of the page that it had scraped, as that page says them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.write.decoded import Sample, samples

from coordinator.not_kept import Reason
from coordinator.prompb import decode
from coordinator.write.decoding import RequestDecoder
from coordinator.write.options import REMOTE_WRITE_2, parse_options

VECTORS = Path(__file__).parent / "vectors"
BODY = (VECTORS / "prometheus_3.body").read_bytes()


@pytest.fixture
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "prometheus_3.json").read_text())
    return found


def scraped(facts: dict[str, Any]) -> list[Sample]:
    return sorted(
        (Sample(one["labels"], one["timeMs"], one["value"], prom_type=one["type"]) for one in facts["samples"]),
        key=lambda one: sorted(one.labels.items()),
    )


def test_all_samples_with_their_types(facts: dict[str, Any]) -> None:
    options = parse_options(facts["headers"])
    assert (options.dialect, options.encoding, options.unfamiliar) == (REMOTE_WRITE_2, "", "")
    decoded = RequestDecoder().decode(BODY, options)
    assert sorted(samples(decoded), key=lambda one: sorted(one.labels.items())) == scraped(facts)
    assert decoded.unread == 0


def test_the_rest_is_counted(facts: dict[str, Any]) -> None:
    decoded = RequestDecoder().decode(BODY, parse_options(facts["headers"]))
    assert decoded.others == {
        Reason.CREATED_TIMESTAMP: facts["createdTimestamps"],
        Reason.EXEMPLAR: facts["exemplars"],
        Reason.NATIVE_HISTOGRAM: facts["nativeHistograms"],
    }


def test_as_version_1_nothing_is_lost(facts: dict[str, Any]) -> None:
    written, _ = RequestDecoder().decode(BODY, parse_options(facts["headers"])).as_write_request()
    found = []
    for one in decode(written.tobytes()):
        labels = {label["name"].decode(): label["value"].decode() for label in one["labels"]}
        (sample,) = one["samples"]
        found.append(Sample(labels, sample["timestamp"], sample.get("value", 0.0), prom_type=one.get("type", 0)))
    assert sorted(found, key=lambda one: sorted(one.labels.items())) == scraped(facts)
