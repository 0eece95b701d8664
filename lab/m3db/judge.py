"""What a node was sent that a client should not send: noted here, and in the end a failure of the test."""

from collections import Counter

from lab.errors import LabError

__all__ = ["Judge"]

_KEPT = 200


class Judge:
    """Counts violations by their text. A node answers as a real one would, whatever is noted."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.found: Counter[str] = Counter()
        self.left_out = 0
        """Violations whose text was not kept, as there were too many."""

    def note(self, text: str) -> None:
        """One violation."""
        if text in self.found or len(self.found) < _KEPT:
            self.found[text] += 1
        else:
            self.left_out += 1

    def take(self) -> list[str]:
        """All texts so far, with how often; they are forgotten."""
        texts = [text if count == 1 else f"{text} ({count} times)" for text, count in self.found.items()]
        if self.left_out:
            texts.append(f"and {self.left_out} more")
        self.found.clear()
        self.left_out = 0
        return texts

    def check(self) -> None:
        """Raises ``LabError`` if anything was noted; it is forgotten."""
        if texts := self.take():
            raise LabError("\n  ".join([f"{self.who} was sent what no client should send:", *texts]))
