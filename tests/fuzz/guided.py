"""``python -m tests.fuzz.guided PARSER``: inputs led by coverage: what reaches a new branch is kept, and changed further (atheris).

For readers in plain Python: branches are counted in our own functions, while compiled kernels and libraries have none that are seen.
``--seconds`` for how long; ``--corpus`` a folder that is begun with and added to; ``--mutated N`` counts instead what N inputs of
``tests.fuzz`` reach. A fault ends the run: its traceback is printed, its input written beside the corpus, for
``python -m tests.fuzz PARSER --input CORPUS.fault``; that of a crash or a hang to ``CORPUS-crash-…`` and ``CORPUS-timeout-…``.
"""

import argparse
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import atheris
from tests.fuzz.mutations import inputs
from tests.fuzz.table import PARSERS

_SOURCES = Path(__file__).parents[2] / "src"
_MAX_BYTES = 4096
"""Of an input: longer ones reach no other branches, and ``tests.fuzz`` has them."""
_HANGS_S = 30
_MOST_MIB = 4096
"""Resident: of the process, whose kernels and watched functions have some of it."""


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    options = _options()
    parser = PARSERS[options.parser]
    seeds = parser.seeds()
    for data in seeds:
        parser.check(data)
    count = instrument()
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="m3fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    first = inputs(seeds, parser.words, f"0 {parser.name}", options.mutated) if options.mutated else seeds
    for number, data in enumerate(first):
        (corpus / f"{parser.name}-{number}").write_bytes(data)
    print(f"{parser.name}: {count} functions are watched; inputs are kept in {corpus}", file=sys.stderr, flush=True)
    ends = "-runs=0" if options.mutated else f"-max_total_time={options.seconds}"
    arguments = [
        f"-max_len={_MAX_BYTES}", f"-timeout={_HANGS_S}", f"-rss_limit_mb={_MOST_MIB}", f"-artifact_prefix={corpus}-", ends,
    ]  # fmt: skip
    if parser.words:
        words = corpus.with_suffix(".words")
        words.write_text("".join(f"{_quoted(word)}\n" for word in parser.words))
        arguments.append(f"-dict={words}")

    def check(data: bytes) -> None:
        try:
            parser.check(data)
        except BaseException:
            corpus.with_suffix(".fault").write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], str(corpus), *arguments], check)
    atheris.Fuzz()


def instrument() -> int:
    """Has the branches of all of our functions that are loaded counted; how many these are."""
    functions = [*_functions()]
    for function in functions:
        atheris.instrument_func(function)
    return len(functions)


def _functions() -> Iterator[types.FunctionType]:
    rooms = {path.parent.name for path in _SOURCES.glob("*/__init__.py")}
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] not in rooms:
            continue
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name]
        for owner in (module, *classes):
            for value in [*vars(owner).values()]:
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                plain = plain.fget if isinstance(plain, property) else plain
                if isinstance(plain, types.FunctionType) and plain.__module__ == name:
                    yield plain


def _quoted(word: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"'


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("parser", choices=[*PARSERS], metavar="parser")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--mutated", type=int, default=0, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
