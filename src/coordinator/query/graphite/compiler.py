"""Render targets as trees: paths to fetch, calls of functions with their defaults filled in (docs/m3/coordinator.md, graphite targets)."""

import math
from dataclasses import dataclass

from coordinator.query.graphite.functions import Function, Kind, Value, find_function
from coordinator.query.graphite.lexer import Token, TokenKind, tokens_of
from coordinator.query.graphite.paths import is_path
from m3x.golang import go_float, parse_bool

__all__ = [
    "Argument",
    "Call",
    "Constant",
    "Fetch",
    "Noop",
    "TargetError",
    "Tree",
    "compile_target",
    "functions_of",
    "text_of",
]

_MAX_DEPTH = 100
"""Calls within calls: each takes some of the interpreter's stack."""
_LEAST_INT = -(1 << 63)
"""What M3's platform makes of a number beyond 64 bits."""
_NO_M3_PATH = (TokenKind.ERROR, TokenKind.EQUAL, TokenKind.NOT)
_SERIES = (Kind.SERIES, Kind.LISTS, Kind.ANY)


@dataclass(frozen=True, slots=True)
class Fetch:
    """The series of a path with globs."""

    path: str


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument that is no series."""

    kind: Kind
    value: Value


@dataclass(frozen=True, slots=True)
class Call:
    """A function with all its arguments."""

    function: Function
    arguments: "tuple[Argument, ...]"


@dataclass(frozen=True, slots=True)
class Noop:
    """What an empty target is."""


Tree = Call | Fetch | Noop
"""A whole target."""
Argument = Call | Constant | Fetch


class TargetError(ValueError):
    """A target that cannot be compiled, in M3's words. ``status``: 500 for functions that do not exist, as in M3."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class _NotACallError(TargetError):
    """A name that is no function's, or that no bracket follows: it may be a path."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 500)


def compile_target(target: str, *, escape_all: bool = False) -> Tree:
    """The tree of a target. Raises ``TargetError``.

    A target that M3 cannot read for a character that paths may have (``a.b+c``, ``web?``) is a path here (docs/compatibility.md, Graphite).
    """
    tokens = list(tokens_of(target, escape_all=escape_all))
    try:
        return _Compiler(target, tokens).tree()
    except TargetError:
        if any(token.kind in _NO_M3_PATH for token in tokens) and is_path(target):
            return Fetch(target)
        raise


def functions_of(node: Tree) -> list[str]:
    """Names of the functions that are called, from the outermost in, each once."""
    found: dict[str, None] = {}
    left: list[Argument | Noop] = [node]
    while left:
        one = left.pop(0)
        if isinstance(one, Call):
            found[one.function.name] = None
            left += one.arguments
    return list(found)


def text_of(node: Argument | Noop) -> str:
    """The tree as M3 writes it: ``sumSeries(fetch(a.*))``."""
    match node:
        case Fetch(path):
            return f"fetch({path})"
        case Call(function, arguments):
            return f"{function.name}({','.join(map(text_of, arguments))})"
        case Constant(_, value):
            return _value_text(value)
        case Noop():
            return "noop"


def _value_text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return go_float(value) if math.isfinite(value) else "NaN"
    return "" if value is None else str(value)


class _Compiler:
    def __init__(self, target: str, tokens: list[Token]) -> None:
        self._target = target
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def tree(self) -> Tree:
        """The whole target."""
        token = self._get()
        if token is None:
            return Noop()
        node: Call | Fetch
        if token.kind is TokenKind.PATTERN:
            node = Fetch(token.text)
        elif token.kind is TokenKind.IDENTIFIER:
            node = self._call_or_fetch(token.text)
        else:
            raise self._error(f"unexpected value {token.text}")
        if (more := self._get()) is not None:
            raise self._error(f"extra data {more.text}")
        return node

    def _error(self, text: str) -> TargetError:
        return TargetError(f"invalid expression '{self._target}': {text}")

    def _get(self) -> Token | None:
        token = self._peek()
        self._at += token is not None
        return token

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _call_or_fetch(self, name: str) -> Call | Fetch:
        try:
            return self._call(name)
        except _NotACallError:
            following = self._peek()
            if following is not None and following.kind is TokenKind.OPEN:
                raise
            return Fetch(name)

    def _call(self, name: str) -> Call:
        function = find_function(name)
        if function is None:
            raise _NotACallError(str(self._error(f"could not find function named {name}")))
        self._expect(TokenKind.OPEN, _NotACallError)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"more than {_MAX_DEPTH} functions stand in one another")
        arguments: list[Argument] = []
        while True:
            if not function.variadic and len(arguments) == len(function.kinds):
                self._expect(TokenKind.CLOSE, TargetError)
                break
            argument = self._argument(function, len(arguments))
            if argument is None:
                break
            arguments.append(argument)
        self._depth -= 1
        while len(arguments) < len(function.kinds) and len(arguments) in function.defaults:
            value = function.defaults[len(arguments)]
            arguments.append(Constant(_kind_of(value), value))
        if len(arguments) < len(function.kinds) - function.variadic:
            wanted = f"{'at least ' if function.variadic else ''}{len(function.kinds)}"
            raise self._error(
                f"invalid number of arguments for {function.name}; expected {wanted}, received {len(arguments)}"
            )
        return Call(function, tuple(arguments))

    def _argument(self, function: Function, index: int) -> Argument | None:
        """None: the closing bracket stands where it would be."""
        token = self._get()
        if token is not None and token.kind is TokenKind.CLOSE:
            return None
        if token is not None and index > 0:
            if token.kind is not TokenKind.COMMA:
                raise self._error(f"error parsing {function.name} expected ',' received '{token.text}'")
            token = self._get()
        if token is None:
            raise self._error(f"unexpected eof while parsing {function.name}")
        where, wanted = f"invalid function call {function.name}, arg {index}", function.kind(index)
        try:
            argument = self._operand(token, wanted)
        except ValueError as error:
            raise self._error(f"{where}: {error}") from None
        if wanted in _SERIES if isinstance(argument, Call | Fetch) else wanted in (argument.kind, Kind.ANY):
            return argument
        received = _received(argument)
        raise self._error(f"{where}: expected a {wanted}, received a {received} '{text_of(argument)}'")

    def _operand(self, token: Token, wanted: Kind) -> Argument:
        """Raises ``ValueError`` with M3's words."""
        match token.kind:
            case TokenKind.NUMBER:
                return _number(token.text, wanted)
            case TokenKind.STRING:
                return Constant(Kind.STRING, token.text)
            case TokenKind.PATTERN:
                return Fetch(token.text)
            case TokenKind.TRUE | TokenKind.FALSE:
                return Constant(Kind.BOOL, parse_bool(token.text))
            case TokenKind.IDENTIFIER:
                return self._named(token.text, wanted)
        raise self._error(f"{token.text} not valid")

    def _named(self, name: str, wanted: Kind) -> Argument:
        """An argument that begins with a name: its own, a function's, or a path."""
        following = self._peek()
        if following is None:
            raise self._error(f"unexpected eof, {name} should be followed by = or (")
        if following.kind is not TokenKind.EQUAL:
            return self._call_or_fetch(name)
        self._get()
        value = self._get()
        if value is None:
            raise self._error(f"unexpected eof, named argument {name} should be followed by its value")
        return self._operand(value, wanted)

    def _expect(self, kind: TokenKind, error: type[TargetError]) -> None:
        token = self._peek()
        if token is None or token.kind is not kind:
            found = "eof" if token is None else token.text
            raise error(str(self._error(f"expected {kind} but encountered {found}")))
        self._get()


def _kind_of(value: Value) -> Kind:
    match value:
        case bool():
            return Kind.BOOL
        case int():
            return Kind.INT
        case float():
            return Kind.FLOAT
        case str():
            return Kind.STRING
    return Kind.ANY


def _received(argument: Argument) -> str:
    match argument:
        case Call():
            return "functionCall"
        case Fetch():
            return "fetchExpression"
        case Constant(kind, _):
            return kind


def _number(text: str, wanted: Kind) -> Constant:
    """Raises ``ValueError`` with Go's words."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None
    if math.isinf(number):
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": value out of range')
    if wanted is not Kind.INT:
        return Constant(Kind.FLOAT, number)
    return Constant(Kind.INT, int(number) if _LEAST_INT <= number < -_LEAST_INT else _LEAST_INT)
