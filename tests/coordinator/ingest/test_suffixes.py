"""Ids with something behind their tags."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.ingest.suffixes import Suffixes, with_label
from m3metrics.ids import decode_tags, encode_tags

PLAIN = encode_tags([(b"__name__", b"up"), (b"zone", b"a")])


def labelled(*idents: bytes) -> list[bytes]:
    buf = np.frombuffer(b"".join(idents), np.uint8)
    sizes = np.array([len(one) for one in idents], np.int64)
    buf, at, size = Suffixes().labelled(buf, np.cumsum(sizes) - sizes, sizes)
    return [buf[a : a + n].tobytes() for a, n in zip(at.tolist(), size.tolist(), strict=True)]


def test_a_suffix_becomes_a_label_and_the_others_stay() -> None:
    first, second, third = labelled(PLAIN, PLAIN + b".p99", PLAIN + b".upper")
    assert first == PLAIN
    assert decode_tags(second) == [(b"__name__", b"up"), (b"agg", b".p99"), (b"zone", b"a")]
    assert dict(decode_tags(third))[b"agg"] == b".upper"


def test_a_label_of_that_name_is_kept_under_another_one() -> None:
    own = encode_tags([(b"__name__", b"up"), (b"agg", b"mine")])
    (found,) = labelled(own + b".sum")
    assert decode_tags(found) == [(b"__name__", b"up"), (b"agg", b".sum"), (b"exported_agg", b"mine")]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_what_is_no_id_stays_as_it_is(idents: list[bytes]) -> None:
    assert labelled(*idents) == idents


tag = st.tuples(st.binary(min_size=1, max_size=8), st.binary(min_size=1, max_size=8))


@given(st.lists(st.tuples(st.lists(tag, min_size=1, max_size=5), st.binary(max_size=6)), min_size=1, max_size=6))
def test_compiled_and_plain_agree(many: list[tuple[list[tuple[bytes, bytes]], bytes]]) -> None:
    idents = [(encode_tags(tags), suffix) for tags, suffix in many]
    expected = [with_label(ident, suffix) if suffix else ident for ident, suffix in idents]
    assert labelled(*(ident + suffix for ident, suffix in idents)) == expected
