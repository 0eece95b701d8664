"""Matchers and label lists against a plain model, while series are added, and what a pattern may cost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.coordinator.store.conftest import satisfies

from coordinator.matchers import Matcher, MatchOp
from coordinator.store.labels import LabelIndex
from m3metrics.ids import Tags, encode_tags

NAMES = [b"__name__", b"app", b"dc"]
VALUES = [b"a", b"ab", b"b", b"b\nc", b"\xc3\xa9"]
PATTERNS = [b"a.*", b"a|b", b"", b".*", b".+", b"(a|ab)", b"[ab]+", b"b.c", b"\xc3\xa9", b"."]

series = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=3)
equality = st.builds(
    Matcher, st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL]), st.sampled_from([*NAMES, b"no"]), st.sampled_from([*VALUES, b""])
)  # fmt: skip
pattern = st.builds(
    Matcher, st.sampled_from([MatchOp.REGEX, MatchOp.NOT_REGEX]), st.sampled_from([*NAMES, b"no"]), st.sampled_from(PATTERNS)
)  # fmt: skip


class Ids:
    """Encoded tag sets one after another, as a label index asks for them."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def add(self, tag_sets: list[Tags]) -> None:
        self.encoded += map(encode_tags, tag_sets)

    def columns(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        encoded = list(self.encoded)
        sizes = np.array([len(one) for one in encoded], np.int64)
        return np.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), np.uint8), np.cumsum(sizes) - sizes, sizes


def index_of(tag_sets: list[Tags]) -> LabelIndex:
    ids = Ids()
    ids.add(tag_sets)
    return LabelIndex(ids.columns)


@given(st.lists(series, max_size=12), st.lists(equality | pattern, max_size=4))
def test_matching_equals_the_model(tag_sets: list[dict[bytes, bytes]], matchers: list[Matcher]) -> None:
    index = index_of([sorted(tags.items()) for tags in tag_sets])
    expected = [i for i, tags in enumerate(tag_sets) if all(satisfies(tags, matcher) for matcher in matchers)]
    assert index.match(matchers).tolist() == expected


@given(st.lists(st.lists(series, max_size=5), max_size=4), st.lists(equality | pattern, max_size=4), st.data())
def test_questions_between_additions_equal_the_model(
    steps: list[list[dict[bytes, bytes]]], matchers: list[Matcher], data: st.DataObject
) -> None:
    ids = Ids()
    index = LabelIndex(ids.columns)
    known: list[dict[bytes, bytes]] = []
    for step in steps:
        ids.add([sorted(tags.items()) for tags in step])
        known += step
        question = data.draw(st.sampled_from(["match", "names", "values", "nothing"]))
        if question == "match":
            expected = [i for i, tags in enumerate(known) if all(satisfies(tags, matcher) for matcher in matchers)]
            assert index.match(matchers).tolist() == expected
        elif question == "names":
            assert index.names() == sorted({name for tags in known for name in tags})
        elif question == "values":
            assert index.values(b"app") == sorted({tags[b"app"] for tags in known if b"app" in tags})


def test_questions_of_several_threads_beside_additions() -> None:
    ids, total, done = Ids(), 20_000, threading.Event()
    index = LabelIndex(ids.columns)

    def ask(k: int) -> int:
        asked = 0
        while asked == 0 or not done.is_set():
            before = len(ids.encoded)
            found = index.match(
                [Matcher(MatchOp.EQUAL, b"third", b"%d" % k), Matcher(MatchOp.REGEX, b"pod", b".*[02468]")]
            )
            after = len(ids.encoded)
            expected = [i for i in range(after) if i % 3 == k and i % 2 == 0]
            assert found.tolist() == expected[: len(found)]
            assert len([i for i in expected if i < before]) <= len(found)
            asked += 1
        return asked

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, k) for k in range(3)]
        for first in range(0, total, 500):
            ids.add([[(b"pod", b"pod-%d" % i), (b"third", b"%d" % (i % 3))] for i in range(first, first + 500)])
        done.set()
        assert all(one.result(60) for one in answers)
    assert index.values(b"pod") == sorted(b"pod-%d" % i for i in range(total))


@given(st.lists(series, max_size=12), st.data())
def test_names_and_values_equal_the_model(tag_sets: list[dict[bytes, bytes]], data: st.DataObject) -> None:
    index = index_of([sorted(tags.items()) for tags in tag_sets])
    among = data.draw(
        st.none() | st.lists(st.sampled_from(range(len(tag_sets))), unique=True) if tag_sets else st.none()
    )
    chosen = tag_sets if among is None else [tag_sets[i] for i in among]
    entries = None if among is None else index.match([])[sorted(among)]
    assert index.names(entries) == sorted({name for tags in chosen for name in tags})
    for name in NAMES:
        assert index.values(name, entries) == sorted({tags[name] for tags in chosen if name in tags})


def test_no_pattern_takes_exponential_time() -> None:
    index = index_of([[(b"a", b"a" * 5000)]])
    began = time.process_time()
    assert index.match([Matcher(MatchOp.REGEX, b"a", b"(a+)+b")]).tolist() == []
    # Backtracking would not be done before the sun is out.
    assert time.process_time() - began < 60


def test_values_that_are_no_text_match_by_their_bytes() -> None:
    index = index_of([[(b"a", b"\xff\xfe")], [(b"a", b"x")]])
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"\xff\xfe")]).tolist() == [0]
    assert index.match([Matcher(MatchOp.NOT_REGEX, b"a", b"x")]).tolist() == [0]


def test_of_a_name_that_is_there_twice_the_first_value_counts() -> None:
    index = index_of([[(b"a", b"1"), (b"a", b"2")]])
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"1")]).tolist() == [0]
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"2")]).tolist() == []


def test_a_value_longer_than_any_label_matches_nothing() -> None:
    index = index_of([[(b"a", b"1")], [(b"b", b"v" * 65_535)]])
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"x" * 65_536)]).tolist() == []
    assert index.match([Matcher(MatchOp.NOT_EQUAL, b"a", b"x" * 65_536)]).tolist() == [0, 1]
    assert index.match([Matcher(MatchOp.EQUAL, b"b", b"v" * 65_535)]).tolist() == [1]


def test_bytes_that_are_no_tags_have_no_labels() -> None:
    ids = Ids()
    ids.encoded = [
        b"",
        b"\x75\x27",
        b"\x75\x27\xff\xff\x01",
        encode_tags([(b"a", b"1")])[:-1],
        encode_tags([(b"a", b"2")]),
    ]
    index = LabelIndex(ids.columns)
    assert index.match([Matcher(MatchOp.NOT_EQUAL, b"a", b"")]).tolist() == [4]
    assert index.values(b"a") == [b"2"]
