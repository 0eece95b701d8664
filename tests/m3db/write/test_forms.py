"""What series are called: the kernel against the plain code."""

import random
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.m3db.write.series import Table, id_of

from m3db.write.forms import Form, FormRules, SeriesForms, form_of, why_bad
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags, encode_tags

SCHEME = b"__option_id_scheme__"
RULES = [
    FormRules(64),
    FormRules(4096, hash_seed=42),
    FormRules(7, id_scheme="prepend_meta"),
    FormRules(1, keep_scheme=True),
    FormRules(16, allow_duplicates=True, allow_empty_values=True),
    FormRules(16, id_scheme="prepend_meta", allow_duplicates=True, allow_empty_values=True, hash_seed=0xFFFFFFFF),
]

literals = st.sampled_from(
    [b"__name__", b"le", SCHEME, b"graphite", b"a", b"zz", b"__g2__", b"__g10__", b'qu"te', b"back\\slash", b"\x7f"]
)
names = literals | st.binary(min_size=1, max_size=20) | st.text("abcxyz_", min_size=1, max_size=30).map(str.encode)
values = literals | st.binary(max_size=20) | st.text(max_size=20).map(str.encode) | st.just(b"v" * 300)
tag_sets = st.lists(st.tuples(names, values), max_size=8)


def expected(data: bytes, rules: FormRules) -> Form | None:
    """As the plain code; None: it cannot be stored."""
    try:
        return form_of(data, rules)
    except IdError:
        return None


def made(data: bytes, rules: FormRules) -> Form | None:
    """What ``SeriesForms`` makes of an id."""
    table = Table()
    series = table.numbers([id_of("another"), data])
    forms = SeriesForms(rules, reserved_bytes=1 << 20)
    bad = forms.require(table, series)
    if len(bad):
        assert bad.tolist() == [1]
        with pytest.raises(IdError) as caught:
            form_of(data, rules)
        assert why_bad(data, rules) == str(caught.value)
        with pytest.raises(KeyError):
            forms.form(1)
        return None
    return forms.form(int(series[1]))


@given(tag_sets, st.sampled_from(RULES))
@example([(b"__g10__", b"k"), (b"__g2__", b"c"), (SCHEME, b"graphite")], RULES[0])
@example([(b"__g1__", b""), (SCHEME, b"graphite")], RULES[0])
@example([(SCHEME, b"graphite")], RULES[3])
@example([(SCHEME, b"other"), (b"a", b"b")], RULES[0])
def test_the_kernel_makes_what_the_plain_code_makes(tags: list[tuple[bytes, bytes]], rules: FormRules) -> None:
    data = encode_tags(tags)
    assert made(data, rules) == expected(data, rules)


@given(tag_sets, st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_tag_blocks_are_complete_whatever_arrives(
    tags: list[tuple[bytes, bytes]], rules: FormRules, chance: random.Random
) -> None:
    """A block that is cut short would end the node's process."""
    data = bytearray(encode_tags(tags))
    for _ in range(chance.randint(0, 3)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = bytes(data[: chance.randint(0, len(data))]) + bytes(chance.choice([0, 0, 5]))
    form = made(cut, rules)
    assert form == expected(cut, rules)
    if form is not None:
        decoded = decode_tags(form.encoded_tags)
        assert encode_tags(decoded) == form.encoded_tags
        assert int.from_bytes(form.encoded_tags[2:4], "little") == len(decoded) > 0


@given(st.integers(0, 12), st.integers(0, 0xFF))
def test_every_byte_at_every_place_is_escaped_alike(place: int, byte: int) -> None:
    literal = bytearray(b"abcdefghijklm")
    literal[place] = byte
    for tags in ([(bytes(literal), b"v")], [(b"n", bytes(literal))]):
        data = encode_tags(tags)
        assert made(data, RULES[0]) == expected(data, RULES[0])
        assert (made(data, RULES[0]) is None) == (byte > 0x7F)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ((b"_m3ninx_id", b"v"), "reserved field name: _m3ninx_id"),
        ((b"n\xff", b"v"), "non-UTF8 field name: 6eff"),
        ((b"n", b"\xe2\x82"), "non-UTF8 field value: e282"),
        ((b"_m3ninx_ic", b"\xe2\x82\xac"), ""),
    ],
)
@pytest.mark.parametrize("graphite", [False, True])
def test_tags_that_nodes_do_not_index_are_bad(
    rules: FormRules, tag: tuple[bytes, bytes], why: str, *, graphite: bool
) -> None:
    """A node says success of them, and forgets them."""
    data = encode_tags([tag, *([(SCHEME, b"graphite")] if graphite else [])])
    assert made(data, rules) == expected(data, rules)
    assert (made(data, rules) is None) == bool(why)
    if why:
        assert why in why_bad(data, rules)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10000, 65535])
def test_lengths_of_prepend_meta(size: int) -> None:
    data = encode_tags([(b"n", b"v"), (b"o" * max(size, 1), b"w" * max(size, 1))])
    form = made(data, RULES[2])
    assert form == form_of(data, RULES[2])


@pytest.mark.parametrize("count", [63, 64, 65, 300])
def test_many_tags(count: int) -> None:
    tags = [(b"t%d" % number, b"v%d" % number) for number in range(count)]
    random.Random(count).shuffle(tags)
    data = encode_tags(tags)
    assert made(data, RULES[0]) == form_of(data, RULES[0])


def test_tags_are_those_of_the_id_sorted_without_the_mark_of_graphite() -> None:
    tags = [(b"zone", b"x"), (b"__name__", b"m"), (b"__rollup__", b"true"), (SCHEME, b"graphite")]
    graphite = form_of(encode_tags(tags), RULES[0])
    assert graphite.id == b"x.m.true"
    assert decode_tags(graphite.encoded_tags) == [(b"zone", b"x"), (b"__name__", b"m"), (b"__rollup__", b"true")]
    plain = form_of(encode_tags(tags[:3]), RULES[0])
    assert plain.id == b'{__name__="m",__rollup__="true",zone="x"}'
    assert form_of(encode_tags(tags), RULES[3]).id.startswith(b'{__name__="m",__option_id_scheme__="graphite",')


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ([], "no tags"),
        ([(SCHEME, b"graphite")], "no tags"),
        ([(b"a", b"")], "tag value empty"),
        ([(b"a", b"1"), (b"a", b"2")], "tags duplicate"),
        ([(b"__g0__", b""), (SCHEME, b"graphite")], "the series id is empty"),
    ],
)
def test_what_cannot_be_stored(tags: list[tuple[bytes, bytes]], text: str) -> None:
    data = encode_tags(tags)
    assert made(data, RULES[0]) is None
    assert text in why_bad(data, RULES[0])


@pytest.mark.parametrize("reserved", [1 << 12, 1 << 30, sys.maxsize // 2])
def test_forms_are_made_once_and_only_for_those_asked_for(reserved: int) -> None:
    """``reserved``: too few bytes, enough, more than any system gives."""
    table = Table()
    ids = [id_of(f"m{number}", host="h" * 50, path='"' if number % 7 == 0 else "/") for number in range(5000)]
    series = table.numbers(ids)
    forms = SeriesForms(FormRules(64), reserved)
    assert not len(forms.require(table, series[:10]))
    assert np.count_nonzero(forms.entries["state"]) == 10
    first = forms.entries[:10].copy()
    assert not len(forms.require(table, series))
    assert (forms.entries[:10] == first).all()
    for number in (0, 7, 4998, 4999):
        assert forms.form(number) == form_of(ids[number], forms.rules)
        assert forms.shards[number] == form_of(ids[number], forms.rules).shard
    assert forms.size_bytes < 5000 * 400
    bad = table.numbers([ids[3], encode_tags([]), ids[4], encode_tags([])])
    assert forms.require(table, bad).tolist() == [1, 3]
    assert forms.require(table, bad).tolist() == [1, 3]
    assert not len(forms.require(table, series))
