"""Where things stand in configuration files."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Places", "Problem", "lines_of"]


class Places(dict[str, str]):
    """Where the sections of a configuration stand: path (``downsample.rules.rollupRules[0]``) → ``file:line``."""

    def named(self, path: str, text: str) -> str:
        """``text`` as a line about that section, or about a key in it; its place is left out where it is not known."""
        place = self.get(path)
        return f"{place}: {path}: {text}" if place is not None else f"{path}: {text}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a configuration from being used."""

    file: str
    line: int
    """0: the file as a whole."""
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


def lines_of(problems: Sequence[Problem], files: Sequence[str]) -> list[str]:
    """The problems in the order of the files and of their lines, each once."""
    order = {file: index for index, file in enumerate(files)}
    ordered = sorted(problems, key=lambda problem: (order.get(problem.file, len(order)), problem.line))
    return list(dict.fromkeys(str(problem) for problem in ordered))
