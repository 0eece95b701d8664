"""Render targets in tokens, as M3 cuts them (docs/m3/coordinator.md, graphite targets)."""

import string
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

__all__ = ["PATH_CHARACTERS", "Token", "TokenKind", "tokens_of"]

PATH_CHARACTERS = frozenset(string.ascii_letters + string.digits + "$-_'|<>%#/:~")
"""What parts of paths consist of; a pattern has dots, globs and groups as well."""
_STARTS = frozenset(string.ascii_letters + "_-$:~")
_NAME = _STARTS | frozenset(string.digits)
_DIGITS = frozenset(string.digits)
_BLANKS = frozenset(" \t\r\n")
_GLOBS = frozenset("{[*")
_CLOSED_BY = {"}": "{", "]": "["}
_END = "\0"
"""Behind the text. A NUL in it ends what it stands in, too."""


class TokenKind(StrEnum):
    """M3's names."""

    ERROR = "Error"
    IDENTIFIER = "Identifier"
    PATTERN = "Pattern"
    NUMBER = "Number"
    STRING = "String"
    OPEN = "LParenthesis"
    CLOSE = "RParenthesis"
    NOT = "NotOperator"
    COMMA = "Comma"
    EQUAL = "Equal"
    TRUE = "True"
    FALSE = "False"


_SYMBOLS = {
    "(": TokenKind.OPEN, ")": TokenKind.CLOSE, "!": TokenKind.NOT, ",": TokenKind.COMMA, "=": TokenKind.EQUAL,
}  # fmt: skip
_RESERVED = {"true": TokenKind.TRUE, "false": TokenKind.FALSE}


class Token(NamedTuple):
    """``text``: as it stands in the target; of a string what it means; of an error what is wrong."""

    kind: TokenKind
    text: str


class _LexerError(Exception):
    pass


def tokens_of(target: str, *, escape_all: bool = False) -> Iterator[Token]:
    """The tokens; one of an error is the last. ``escape_all``: a backslash in a string goes with any character but digits."""
    lexer = _Lexer(target, escape_all)
    try:
        while (token := lexer.token()) is not None:
            yield token
    except _LexerError as error:
        yield Token(TokenKind.ERROR, str(error))


class _Lexer:
    def __init__(self, text: str, escape_all: bool) -> None:
        self._text = text
        self._escape_all = escape_all
        self._start = 0
        self._at = 0

    def token(self) -> Token | None:
        """The next one; None behind the last. Raises ``_LexerError``."""
        self._run(_BLANKS)
        self._start = self._at
        first = self._next()
        if first == _END:
            return None
        if first in "\"'":
            return self._string(first)
        if first in "+-":
            return self._signed()
        if first == ".":
            return self._fraction()
        if first in _DIGITS:
            return self._number_or_pattern()
        if first in _STARTS:
            return self._name_or_pattern()
        if first in _GLOBS:
            self._back(first)
            return self._pattern()
        if first not in _SYMBOLS:
            raise _LexerError(f"unexpected character {first}")
        return Token(_SYMBOLS[first], first)

    def _next(self) -> str:
        if self._at >= len(self._text):
            return _END
        self._at += 1
        return self._text[self._at - 1]

    def _back(self, character: str) -> None:
        if character != _END:
            self._at -= 1

    def _peek(self) -> str:
        character = self._next()
        self._back(character)
        return character

    def _run(self, wanted: frozenset[str]) -> bool:
        """Passes all that are wanted; whether there was one."""
        found = False
        while (character := self._next()) in wanted:
            found = True
        self._back(character)
        return found

    def _accept(self, wanted: str) -> bool:
        character = self._next()
        if character != _END and character in wanted:
            return True
        self._back(character)
        return False

    def _digits(self) -> None:
        """One digit at least."""
        if not self._run(_DIGITS):
            raise _LexerError(f"expected one of {string.digits}, found {self._next()}")

    def _taken(self) -> str:
        return self._text[self._start : self._at]

    def _number(self) -> Token:
        return Token(TokenKind.NUMBER, self._taken())

    def _signed(self) -> Token:
        self._digits()
        if self._accept("."):
            self._run(_DIGITS)
        return self._number()

    def _fraction(self) -> Token:
        self._digits()
        return self._exponent() if self._accept("eE") else self._number()

    def _exponent(self) -> Token:
        self._accept("+-")
        self._digits()
        return self._number()

    def _number_or_pattern(self) -> Token:
        self._run(_DIGITS)
        dotted = self._accept(".")
        if dotted:
            self._run(_DIGITS)
        following = self._peek()
        if self._accept("eE"):
            return self._exponent()
        if following in _GLOBS or following in _STARTS or (dotted and following == "."):
            return self._pattern()
        return self._number()

    def _name_or_pattern(self) -> Token:
        self._run(_NAME)
        following = self._peek()
        if following in _GLOBS or following in ".-":
            return self._pattern()
        name = self._taken()
        return Token(_RESERVED.get(name.lower(), TokenKind.IDENTIFIER), name)

    def _pattern(self) -> Token:
        groups: list[str] = []
        while True:
            character = self._next()
            if character in "{[":
                groups.append(character)
            elif character in _CLOSED_BY:
                if not groups or groups.pop() != _CLOSED_BY[character]:
                    raise _LexerError(f"encountered unbalanced end of group {character} in pattern {self._taken()}")
            elif character not in PATH_CHARACTERS and character not in ".?*" and not (character == "," and groups):
                if groups:
                    raise _LexerError(f"end of pattern {self._taken()} reached while still in group {groups[-1]}")
                self._back(character)
                return Token(TokenKind.PATTERN, self._taken())

    def _string(self, quote: str) -> Token:
        text, escaped = "", False
        while True:
            character = self._next()
            if character == _END:
                raise _LexerError(f"reached end of input while processing string {self._taken()}")
            if not escaped and character == quote:
                return Token(TokenKind.STRING, text)
            if not escaped and character == "\\":
                escaped = True
                continue
            # Regular expressions and their groups keep their backslashes.
            keeps = character in _DIGITS if self._escape_all else character != quote
            text += f"\\{character}" if escaped and keeps else character
            escaped = False
