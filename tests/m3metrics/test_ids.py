"""Ids beyond the vectors: round trips, limits, orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3metrics import ids, series_ids
from m3metrics.errors import IdError
from m3metrics.ids import Tags

NAME = st.binary(min_size=1, max_size=12) | st.sampled_from([b"__name__", b"__m3_type__", b"__m3", b"a", b"__rollup__"])
TAGS = st.lists(st.tuples(NAME, st.binary(max_size=12)), max_size=8)


@given(TAGS, st.binary(max_size=4))
def test_round_trip(tags: Tags, trailing: bytes) -> None:
    data = ids.encode_tags(tags)
    assert ids.decode_tags(data + trailing) == ids.parse_tags(data + trailing) == tags
    for name in {name for name, _ in tags} | {b"absent"}:
        assert ids.find_tag(data, name) == next((value for key, value in tags if key == name), None)


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_read_or_refused(rest: bytes, count: int) -> None:
    for data in (rest, b"\x75\x27" + bytes([count, 0]) + rest):
        try:
            tags = ids.decode_tags(data)
        except IdError:
            continue
        assert data.startswith(ids.encode_tags(tags))
    assert ids.is_rollup_id(rest) in (True, False)


@given(st.dictionaries(NAME, st.binary(max_size=5), max_size=9))
def test_coordinator_order(tags: dict[bytes, bytes]) -> None:
    sent = ids.coordinator_tags(ids.matching_tags(tags.items(), "gauge"))
    assert sorted(sent) == sorted((name, value) for name, value in tags.items() if not name.startswith(b"__m3"))
    if not any(name.startswith(b"__m3") for name in tags):
        # The closed form for the ordinary case (docs/m3/coordinator.md, tag order).
        ordered = sorted(tags.items())
        before = [tag for tag in ordered if tag[0] < b"__m3"]
        after = ordered[len(before) :]
        moved = [after[-1], after[-2], *after[:-2]] if len(after) > 1 else after
        assert sent == before + moved


@given(st.dictionaries(NAME, st.binary(max_size=5), max_size=6), st.binary(max_size=5))
def test_rollup_of_sorted_pairs_is_sorted(pairs: dict[bytes, bytes], name: bytes) -> None:
    tags = ids.decode_tags(ids.rollup_id(name, sorted(pairs.items())))
    assert tags == sorted(tags)
    kept = {key: value for key, value in pairs.items() if not key.startswith(b"__m3")}
    assert dict(tags) == {b"__name__": name, b"__rollup__": b"true"} | kept


def test_limits() -> None:
    with pytest.raises(IdError, match=r"^too many tags to encode \(65536\), limit is: 65535$"):
        ids.encode_tags([(b"a", b"")] * 65536)
    with pytest.raises(IdError, match="^literal is too long$"):
        ids.encode_tags([(b"a" * 65536, b"")])


def test_graphite_order_and_id() -> None:
    tags = series_ids.normalized_tags([(b"__g10__", b"k"), (b"__g2__", b"c"), (b"__g1__", b"b")], graphite=True)
    assert series_ids.graphite_id(tags) == b"b.c.k"
    series_ids.validate_tags(tags, graphite=True)
    with pytest.raises(IdError, match=r"^tags out of order: '__g2__' appears after '__g10__', tags: \[__g1__: b __g2"):
        series_ids.validate_tags(tags)
    with pytest.raises(IdError, match=r"^graphite tags out of order: 'b' appears after 'a', tags: \[b: 1 a: 0\]$"):
        series_ids.validate_tags([(b"b", b"1"), (b"a", b"0")], graphite=True)


@pytest.mark.parametrize(
    ("tags", "graphite", "allowed", "error"),
    [
        ([], True, False, "no tags"),
        ([(b"a", b""), (b"b", b"x" * 70000)], True, False, None),
        ([(b"a", b"1"), (b"a", b"2")], True, True, "graphite tags out of order: 'a' appears after 'a', tags: [a: 1 a: 2]"),
        ([(b"a", b"1"), (b"", b"2")], True, False, "tag name empty: index=1"),
        ([(b"a", b"1"), (b"a", b"2")], False, True, None),
        ([(b"b", b"1"), (b"a", b"2")], False, True, "tags out of order: 'b' appears after 'a', tags: [b: 1 a: 2]"),
        ([(b"a", b"1"), (b"a", b"2")], False, False, "tags duplicate: 'a' appears more than once in 'a: 1, a: 2'"),
        ([(b"a" * 65536, b"")], False, False, "tag name too long: index=0, length=65536, maxLength=65535"),
        ([(b"a", b""), (b"b", b"x" * 65536)], False, True, "tag value too long: index=1, length=65536, maxLength=65535"),
    ],
)  # fmt: skip
def test_what_each_scheme_checks(tags: Tags, graphite: bool, allowed: bool, error: str | None) -> None:
    found = None
    try:
        series_ids.validate_tags(tags, allowed, allowed, graphite)
    except IdError as raised:
        found = str(raised)
    assert found == error


def test_ids_without_tags() -> None:
    made = (series_ids.quoted_id([]), series_ids.prepend_meta_id([]), series_ids.graphite_id([]), ids.encode_tags([]))
    assert made == (b"{}", b"", b"", b"\x75\x27\x00\x00")
    assert ids.rollup_id(b"", []) == ids.encode_tags([(b"__name__", b""), ids.ROLLUP_TAG])
    assert not ids.is_rollup_id(ids.encode_tags([]))
    with pytest.raises(IdError, match="^no tags provided$"):
        ids.coordinator_id([], "gauge")
    assert ids.coordinator_id([(b"__m3_x__", b"y")], "gauge") == ids.encode_tags([])


def test_escapes_beyond_the_basic_plane() -> None:
    tags = [(b"a", '\U000e0001"'.encode()), (b"b", "🙂".encode())]
    assert series_ids.quoted_id(tags) == '{a="\\U000e0001\\"",b="🙂"}'.encode()


def test_a_backslash_is_escaped_only_where_something_else_has_to_be_looked_at() -> None:
    tags = [(b"a", b"\\"), (b"b", b'\\"'), (b"c", "é\\".encode())]
    assert series_ids.quoted_id(tags) == '{a="\\",b="\\\\\\"",c="é\\\\"}'.encode()


def test_ids_as_people_write_them() -> None:
    ident = ids.encode_tags([(b"__name__", b"up"), (b"job", b"a"), (b"zone", b"\xff")])
    assert ids.readable_id(ident) == 'up{job="a", zone="\\xff"}'
    assert ids.readable_id(ident[:-2]) == 'up{job="a"…}'
    assert ids.readable_id(ids.encode_tags([])) == "{}"
    assert ids.readable_id(b"stats.counts.a") == "stats.counts.a"
    assert ids.readable_id(b"\xff") == "\\xff"


@given(st.binary(max_size=40))
def test_any_bytes_can_be_read_aloud(data: bytes) -> None:
    assert isinstance(ids.readable_id(data), str)
    assert isinstance(ids.readable_id(b"\x75\x27" + data), str)
