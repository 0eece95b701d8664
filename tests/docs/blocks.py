"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, the commands in them, and the commands in running text."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("m3aggregator", "m3coordinator", "m3ctl")
RUN = {
    "README.md": "tests/integration/test_senders.py",
    "docs/sending.md": "tests/integration/test_senders.py",
    "docs/deploying.md": "tests/integration/test_senders.py",
    "docs/cluster.md": "tests/docs/test_admin_calls.py",
    "docs/setting_up.md": "tests/docs/test_admin_calls.py",
}
"""The test that runs the calls of a page (``run_commands``)."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:m3ctl|m3coordinator|m3aggregator|scripts/[\w-]+|make|curl|echo) [^`]*)`")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """A fenced block."""

    page: str
    """Its path from the root."""
    line: int
    language: str
    text: str
    """Without the indent of its fence."""

    @property
    def where(self) -> str:
        """As an editor understands it."""
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A command of a block or of running text."""

    where: str
    text: str
    environment: dict[str, str]
    words: list[str]


def blocks(*languages: str) -> list[Block]:
    """All blocks in one of these languages, or all."""
    return [block for page in PAGES for block in blocks_of(page) if not languages or block.language in languages]


def blocks_of(page: Path) -> list[Block]:
    """In their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, language, inside = match.groups()
        unindented = re.sub(rf"^{indent}", "", inside, flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(str(page.relative_to(ROOT)), line, language, unindented))
    return found


def commands_of(block: Block) -> list[Command]:
    """One for each line, or for several that quotes or a backslash hold together. Raises ``ValueError`` for an open quote."""
    found, begun = [], ""
    for line in block.text.splitlines():
        begun = f"{begun}\n{line}" if begun else line
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(begun.replace("\\\n", ""), comments=True)
        except ValueError:
            continue
        if words:
            found.append(_command(block.where, begun, words))
        begun = ""
    if begun:
        raise ValueError(f"{block.where}: a quote is not closed: {begun}")
    return found


def inline_commands() -> Iterator[Command]:
    """Commands of ours in running text. What may be left out (``[--each]``), and what stands for more (``…``), is left out."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in _INLINE.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            text = match[1].replace("\n", " ").replace("\\|", "|")
            shown = text if text.startswith(("curl", "echo")) else re.sub(r"\[[^]]*\]|\S*…\S*", "", text)
            yield _command(f"{page.relative_to(ROOT)}:{line}", text, shlex.split(shown))


def _command(where: str, text: str, words: list[str]) -> Command:
    environment = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return Command(where, text, environment, words)


def is_run(command: Command) -> bool:
    """Whether a test of ``RUN`` runs it."""
    asks = command.words[:1] == ["curl"] or "> /dev/tcp/" in command.text
    return asks and command.where.partition(":")[0] in RUN


def commands_to_run(page: str) -> list[Command]:
    """What is to be run of a page, in its order."""
    in_blocks = [command for block in blocks_of(ROOT / page) for command in commands_of(block)]
    found = [command for command in [*in_blocks, *inline_commands()] if command.where.startswith(f"{page}:")]
    return [command for command in found if is_run(command)]


def run_commands(page: str, places: Mapping[str, str], *, but: str = "") -> None:
    """Runs them as they stand, but for addresses (``places``: what stands there → what is here); each has to be answered well.

    ``but``: what the one that is left out has in it.
    """
    commands = [command for command in commands_to_run(page) if not but or but not in command.text]
    assert commands
    for command in commands:
        text = command.text
        for there, here in places.items():
            text = text.replace(there, here)
        script = f'curl() {{ command curl -sSf "$@"; }}\n{text}\n'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command.where}: {command.text}\n{done.stdout}{done.stderr}"
