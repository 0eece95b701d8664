"""What answers mean: the table of ``answers``, and the texts of stores in use."""

import email.utils
import json

import pytest

from coordinator.sinks.prom_remote.answers import MAX_TEXT, Kind, judge, one_line, retry_after_s
from coordinator.sinks.sink import RefusedWhy

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (range(200, 300), Kind.STORED),
        ((400, 422), Kind.REFUSED),
        ((413,), Kind.TOO_LARGE),
        ((429, *range(500, 600)), Kind.LATER),
        ([status for status in range(300, 500) if status not in (400, 413, 422, 429)], Kind.HELD),
        ((0, 100, 600, 999), Kind.HELD),
    ],
)
def test_every_status_has_one_meaning(statuses: list[int], kind: Kind) -> None:
    assert {judge(status).kind for status in statuses} == {kind}


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        # Prometheus 2.42, see tests/integration.
        (400, "out of order sample\n", RefusedWhy.OUT_OF_ORDER),
        (400, "duplicate sample for timestamp\n", RefusedWhy.DUPLICATE),
        (400, "out of bounds\n", RefusedWhy.TOO_OLD),
        (500, "too old sample\n", RefusedWhy.TOO_OLD),
        (500, 'label name "ab" is not unique: invalid sample\n', RefusedWhy.BAD_REQUEST),
        (500, "empty labelset: invalid sample\n", RefusedWhy.BAD_REQUEST),
        (400, "snappy: corrupt input\n", RefusedWhy.BAD_REQUEST),
        # Mimir.
        (
            400,
            "failed pushing to ingester: the sample has been rejected because another sample with a more recent timestamp has already been "
            "ingested and out-of-order samples are not allowed (err-mimir-sample-out-of-order). The affected sample has timestamp "
            '2023-01-01T00:00:00Z and is from series up{job="a"}',
            RefusedWhy.OUT_OF_ORDER,
        ),
        (400, "… has already been ingested (err-mimir-sample-duplicate-timestamp)", RefusedWhy.DUPLICATE),
        (400, "the sample's timestamp is too old (err-mimir-sample-timestamp-too-old)", RefusedWhy.TOO_OLD),
        (400, "per-user series limit of 150000 exceeded (err-mimir-max-series-per-user)", RefusedWhy.TOO_MANY_SERIES),
        (400, "received a series whose number of labels exceeds the limit (err-mimir-max-label-names-per-series)", RefusedWhy.BAD_REQUEST),
        (422, "", RefusedWhy.BAD_REQUEST),
    ],
)  # fmt: skip
def test_why_samples_are_refused(status: int, text: str, why: RefusedWhy) -> None:
    answer = judge(status, text)
    assert (answer.kind, answer.why) == (Kind.REFUSED, why)


@pytest.mark.parametrize("key", ["error", "message", "msg"])
def test_of_a_document_its_words_are_told(key: str) -> None:
    answer = judge(400, json.dumps({"status": "error", key: "out of order\nsample"}) + "\n")
    assert (answer.text, answer.why) == ("status 400: out of order sample", RefusedWhy.OUT_OF_ORDER)


@pytest.mark.parametrize("body", ["[]", "{}", '{"error":5}', "3", '"text"'])
def test_a_document_without_words_is_told_as_it_is(body: str) -> None:
    assert judge(503, body + "\n").text == f"status 503: {body}"


def test_other_errors_of_the_server_are_not_final() -> None:
    assert judge(500, "no space left on device").kind is Kind.LATER
    assert judge(503, "out of order sample").kind is Kind.LATER


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", None),
        ("  ", None),
        ("0", 0.0),
        ("12", 12.0),
        ("301", 300.0),
        ("9" * 400, 300.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        (email.utils.formatdate(NOW_S + 25, usegmt=True), 25.0),
        (email.utils.formatdate(NOW_S - 25, usegmt=True), 0.0),
        (email.utils.formatdate(NOW_S + 1e6, usegmt=True), 300.0),
    ],
)
def test_retry_after(header: str, wanted: float | None) -> None:
    assert retry_after_s(header, NOW_S) == wanted
    assert judge(503, "", header, NOW_S).retry_after_s == wanted


def test_texts_are_one_line_of_bounded_length() -> None:
    assert one_line(" a\r\n\tb\x00c\x1b[31m  d ") == "a b c [31m d"
    assert one_line("z" * 20000) == "z" * (MAX_TEXT - 1) + "…"
    assert judge(400, "x\ny").text == "status 400: x y"
    assert judge(404).text == "status 404"


def test_only_401_asks_for_new_credentials() -> None:
    assert [status for status in range(300, 600) if judge(status).unauthorized] == [401]
