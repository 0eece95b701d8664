"""Tags as they are in M3DB, and as queries have them: each name once, the first value that is one, sorted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.query.m3db.conftest import column

from coordinator.matchers import Matcher, MatchOp
from coordinator.query.graphite.paths import ID_TAG
from coordinator.query.m3db.tags import asked_for, judged_here, sorted_tags
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags, encode_tags

names = st.sampled_from([b"a", b"b", b"__name__", b"__g10__", b"__option_id_scheme__"])
encoded = st.lists(st.tuples(names, st.binary(max_size=3)), max_size=5).map(encode_tags)


@given(st.lists(encoded | st.binary(max_size=20), max_size=6))
def test_sorted_or_refused(texts: list[bytes]) -> None:
    series, bad = sorted_tags(column(texts))
    for i, text in enumerate(texts):
        try:
            labels = [tag for tag in decode_tags(text) if tag[1] and tag[0] != b"__option_id_scheme__"]
        except IdError:
            labels = []
        if i in bad:
            assert not labels
        else:
            assert series.tags(i) == sorted({name: value for name, value in reversed(labels)}.items())
    assert bad.dtype == np.int64
    assert len(series.notes.warnings) == (1 if len(bad) else 0)


def test_what_an_index_can_be_asked_for() -> None:
    """A matcher that a series without the label satisfies says nothing of the index; one that denies wants the label at least."""
    there = Matcher(MatchOp.NOT_EQUAL, b"a", b"")
    for op, value, asked in (
        (MatchOp.EQUAL, b"1", True),
        (MatchOp.EQUAL, b"", False),
        (MatchOp.REGEX, b"1|2", True),
        (MatchOp.REGEX, b"1|", False),
        (MatchOp.NOT_EQUAL, b"1", False),
        (MatchOp.NOT_REGEX, b"1", False),
    ):
        matcher = Matcher(op, b"a", value)
        assert asked_for([matcher]) == ([matcher] if asked else []), matcher
    assert asked_for([there, Matcher(MatchOp.NOT_REGEX, b"a", b"1|")]) == [there, there]


def test_ids_are_left_to_the_index() -> None:
    path, label = Matcher(MatchOp.REGEX, ID_TAG, b"a.*"), Matcher(MatchOp.EQUAL, b"__g0__", b"a")
    assert judged_here([path, label]) == [label]
    assert asked_for([path, label]) == [path, label]
