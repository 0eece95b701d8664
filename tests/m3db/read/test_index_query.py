"""Index queries beyond what tests/golden shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.read.index_query import (
    AllQuery,
    ConjunctionQuery,
    DisjunctionQuery,
    FieldQuery,
    IndexMatcher,
    IndexQueryError,
    MatchKind,
    NegationQuery,
    Query,
    RegexpQuery,
    TermQuery,
    conjunction,
    disjunction,
    marshal_query,
    query_of,
    query_text,
    unmarshal_query,
)

words = st.sampled_from([b"", b"a", b"b", b"\xff", "é".encode()])
leaves: st.SearchStrategy[Query] = st.one_of(
    st.just(AllQuery()),
    st.builds(FieldQuery, words),
    st.builds(TermQuery, words, words),
    st.builds(RegexpQuery, words, words),
)
queries: st.SearchStrategy[Query] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(NegationQuery, inner),
        st.lists(inner, max_size=4).map(conjunction),
        st.lists(inner, max_size=4).map(disjunction),
    ),
    max_leaves=12,
)
TERM, FIELD, REGEXP = TermQuery(b"a", b"1"), FieldQuery(b"b"), RegexpQuery(b"c", b".x")


@given(queries)
def test_there_and_back(query: Query) -> None:
    assert unmarshal_query(marshal_query(query)) == query
    assert query_text(unmarshal_query(marshal_query(query))) == query_text(query)


def test_normal_form() -> None:
    assert conjunction([TERM, FIELD]) == conjunction([FIELD, TERM]) == ConjunctionQuery((FIELD, TERM))
    assert conjunction([NegationQuery(TERM), NegationQuery(FIELD)]) == ConjunctionQuery(
        (NegationQuery(TERM),), (FIELD,)
    )
    assert disjunction([disjunction([TERM, FIELD]), REGEXP]) == DisjunctionQuery((FIELD, REGEXP, TERM))


def test_a_conjunction_within_another_keeps_its_negations() -> None:
    inner = conjunction([FIELD, NegationQuery(REGEXP)])
    assert conjunction([TERM, inner]) == ConjunctionQuery((FIELD, TERM), (REGEXP,))
    several = [IndexMatcher(MatchKind.EQUAL, b"a", b"1"), IndexMatcher(MatchKind.NOT_REGEXP, b"b", b"x*")]
    assert query_text(query_of(several)) == b"conjunction(field(b), term(a,1),negation(regexp(b,x*)))"


@pytest.mark.parametrize(
    ("regexp", "empty"),
    [
        (b"x*", True),
        (b"(|a)", True),
        (b"^$", True),
        (b"a|", True),
        (b"(ab)+", False),
        (b"(?i)a", False),
        (b".?b", False),
    ],
)
def test_regular_expressions_that_match_the_empty_value(regexp: bytes, empty: bool) -> None:
    query = query_of([IndexMatcher(MatchKind.REGEXP, b"a", regexp)])
    assert isinstance(query, DisjunctionQuery) == empty


@pytest.mark.parametrize(
    ("regexp", "text"),
    [
        (b"a(b", "missing closing ): `a(b`"),
        (b"[a", "missing closing ]: `[a`"),
        (b"*", "missing argument to repetition operator: `*`"),
        (b"a**", "invalid nested repetition operator: `**`"),
        (b"a{2,1}", "invalid repeat count: `{2,1}`"),
        (b"(?z)", "invalid or unsupported Perl syntax: `(?z`"),
        (b")", "unexpected ): `)`"),
    ],
)
def test_bad_regular_expressions(regexp: bytes, text: str) -> None:
    for kind in (MatchKind.REGEXP, MatchKind.NOT_REGEXP):
        with pytest.raises(IndexQueryError) as caught:
            query_of([IndexMatcher(kind, b"a", regexp)])
        assert str(caught.value) == f"regex error: error parsing regexp: {text}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a query of 0 kinds, expected one"),
        (b"\x32\x00\x0a\x00", "a query of 2 kinds, expected one"),
        (b"\x1a\x00", "a query of 0 kinds, expected one"),
        (b"\x0a", "cannot read query.Query: unexpected EOF"),
    ],
)
def test_bad_bytes(data: bytes, text: str) -> None:
    with pytest.raises(IndexQueryError, match=f"^{text}"):
        unmarshal_query(data)


def test_deep_nesting() -> None:
    query: Query = TERM
    for _ in range(40):
        query = NegationQuery(query)
    with pytest.raises(IndexQueryError, match="^a query nested more than 32 deep$"):
        unmarshal_query(marshal_query(query))
