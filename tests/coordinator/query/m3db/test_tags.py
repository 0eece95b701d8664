"""Tags as they are in M3DB, and as queries have them: each name once, the first value that is one, sorted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.query.m3db.conftest import column

from coordinator.query.m3db.tags import sorted_tags
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
