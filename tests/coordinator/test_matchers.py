"""What a matcher may be; which series it matches: ``store/test_labels``."""

import pytest

from coordinator.matchers import Matcher, MatcherError, MatchOp


@pytest.mark.parametrize("text", [b"(", b"*", b"[b-a]", b"(?=a)", b"\\1"])
def test_patterns_that_re2_refuses(text: bytes) -> None:
    with pytest.raises(MatcherError, match="error parsing regexp"):
        Matcher(MatchOp.REGEX, b"a", text)
    Matcher(MatchOp.EQUAL, b"a", text)


def test_a_matcher_needs_a_name() -> None:
    with pytest.raises(MatcherError, match="name"):
        Matcher(MatchOp.EQUAL, b"", b"x")
