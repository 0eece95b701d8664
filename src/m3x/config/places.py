"""Where things stand in configuration files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Places", "Problem", "lines_of"]


class Places(dict[str, str]):
    """Where the keys of a configuration stand: path (``downsample.rules.rollupRules[0].name``) → ``file:line``."""

    def named(self, path: str, text: str) -> str:
        """``text`` as a line about that key; the place is that of the nearest section around it that is given, if there is one."""
        around = path
        while around and around not in self:
            around = re.sub(r"(\.|^)[^.\[]+$|\[\d+\]$", "", around)
        place = self.get(around) if around else None
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
