"""Globs."""

import pytest

from coordinator.query.graphite.paths import (
    GlobError,
    NoGlobError,
    expansions,
    glob_matchers,
    graphite_path,
    path_predicate,
)


def test_the_path_of_a_series() -> None:
    tags = [(b"__g%d__" % i, b"%d" % i) for i in range(12)]
    assert graphite_path(sorted(tags)) == "0.1.2.3.4.5.6.7.8.9.10.11"
    assert graphite_path([(b"__g0__", b"a"), (b"__g2__", b"c")]) == "a..c"
    assert graphite_path([(b"__g2__", b"c")]) == "..c"
    assert graphite_path([(b"__g%d__" % 10**8, b"c")]) is None
    assert graphite_path([]) is None
    assert graphite_path([(b"__g0__", b"a"), (b"job", b"x")]) is None


@pytest.mark.parametrize(
    "glob", ["", ".a", "a..b", "a.", "a.{b", "a.b]", "a.{b]", "a,b", "a b", "a(b)", 'a"b', "a;b", "a\n", "a.{b.c,d}"]
)
def test_what_is_no_glob(glob: str) -> None:
    with pytest.raises(NoGlobError):
        glob_matchers(glob)


@pytest.mark.parametrize(
    ("glob", "why"), [("a.[]", "regexp"), ("a.[z-a]", "regexp"), (".".join("*" * 257), "256 parts")]
)
def test_globs_that_cannot_be_looked_for(glob: str, why: str) -> None:
    with pytest.raises(GlobError, match=why) as caught:
        glob_matchers(glob)
    assert type(caught.value) is GlobError


@pytest.mark.parametrize(
    ("part", "yes", "no"),
    [
        ("b*", ["b", "bc"], ["ab"]), ("b?", ["bc", "bé"], ["b", "bcd"]), ("{b,c?}", ["b", "cd"], ["c", "d"]), ("[!ab]", ["c"], ["a", "b"]),
        ("[^ab]", ["c"], ["a"]), ("[a-c]", ["b"], ["-"]), ("b|c*", ["b|cd"], ["b", "cd"]),
        ("b+*", ["b+x"], ["bb"]), ("a{}b", ["ab"], ["a"]),
        ("$a*", ["$ab"], ["ab"]), ("b\\*", ["b\\x"], ["b*", "bx"]), ("(b", [], []),
    ],
)  # fmt: skip
def test_what_a_part_matches(part: str, yes: list[str], no: list[str]) -> None:
    if not yes:
        with pytest.raises(NoGlobError):
            glob_matchers(part)
        return
    (matcher,) = glob_matchers(part)
    matches = matcher.predicate()
    assert [text for text in yes + no if matches(text.encode())] == yes


@pytest.mark.parametrize(
    ("glob", "depth", "expected"),
    [
        ("a.**", 1, []), ("a.**", 3, ["a.*.*"]), ("a.**.c", 2, ["a.c"]), ("a.**.c", 4, ["a.*.*.c"]), ("**.c", 1, ["c"]),
        ("x**y", 1, ["x*y"]), ("x**y", 3, ["x*.*.*y"]), ("**.**", 2, ["*.*", "*.*"]), ("a.b", 3, []), ("a.b", 1, []),
        ("**a**", 1, ["*a*"]), ("**a**", 2, ["*a*.*", "*.*a*"]), ("a**b**c", 3, ["a*b*.*.*c", "a*.*b*.*c", "a*.*.*b*c"]), ("x**y", 0, []),
    ],
)  # fmt: skip
def test_what_stars_stand_for(glob: str, depth: int, expected: list[str]) -> None:
    assert expansions(glob, depth) == expected


def test_stars_have_an_end() -> None:
    with pytest.raises(GlobError, match="more than 64 ways; use fewer"):
        expansions("**.**.**.**.a", 30)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("a.**", ["a.b", "a.b.c"], ["a", "ab.c"]), ("a.**.c", ["a.c", "a.b.c", "a.b.b.c"], ["a.bc", "ac"]),
        ("**.c", ["c", "a.c"], ["bc", "a.bc"]),
        ("x**y", ["xy", "x.a.y", "xa.ay"], ["x.y.z"]), ("a**.c", ["a.c", "ab.c", "a.b.c"], ["ac"]),
        ("**b**", ["b", "abc", "a.b", "b.a", "xa.xbx.a.c"], ["a.c"]),
    ],
)  # fmt: skip
def test_paths_of_stars(glob: str, yes: list[str], no: list[str]) -> None:
    matches = path_predicate(glob)
    assert [path for path in yes + no if matches(path)] == yes
    parts = {path: path.count(".") + 1 for path in yes}
    for path, depth in parts.items():
        assert any(path_matches(one, path) for one in expansions(glob, depth))


def path_matches(glob: str, path: str) -> bool:
    pairs = zip(glob_matchers(glob), path.split("."), strict=True)
    return all(matcher.predicate()(part.encode()) for matcher, part in pairs)
