"""Label matchers with Prometheus' meaning, as every store of ours understands them."""

import enum
from collections.abc import Callable

import msgspec
import re2  # type: ignore[import-untyped]

__all__ = ["MatchOp", "Matcher", "MatcherError"]


class MatcherError(ValueError):
    """A matcher that cannot be: an invalid regular expression, an empty name."""


class MatchOp(enum.IntEnum):
    """As numbered in Prometheus' remote read protocol."""

    EQUAL = 0
    NOT_EQUAL = 1
    REGEX = 2
    NOT_REGEX = 3


_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


class Matcher(msgspec.Struct, frozen=True):
    """A condition on one label; a series without the label has the empty value. Regular expressions are RE2 and match whole values.

    RE2 works in linear time: no pattern of a request can take the service down.
    """

    op: MatchOp
    name: bytes
    value: bytes

    def __post_init__(self) -> None:
        if not self.name:
            raise MatcherError("a matcher needs a label name")
        if self.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            self._compile()

    def _compile(self) -> Callable[[bytes], object]:
        try:
            compiled = re2.compile(b"^(?:" + self.value + b")$", _OPTIONS)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace") if error.args else "unknown"
            raise MatcherError(f"error parsing regexp {self.value.decode(errors='replace')!r}: {reason}") from None
        match: Callable[[bytes], object] = compiled.match
        return match

    def predicate(self) -> Callable[[bytes], bool]:
        """Whether a value satisfies it."""
        if self.op == MatchOp.EQUAL:
            return lambda value: value == self.value
        if self.op == MatchOp.NOT_EQUAL:
            return lambda value: value != self.value
        match = self._compile()
        if self.op == MatchOp.REGEX:
            return lambda value: match(value) is not None
        return lambda value: match(value) is None
