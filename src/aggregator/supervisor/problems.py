"""What an instance finds wrong with its set-up."""

from dataclasses import dataclass, field

from m3x.log import logger

__all__ = ["PartOfProblems", "Problems"]

log = logger(__name__)


@dataclass(slots=True)
class Problems:
    """What is wrong with the set-up right now, by subject: said once in the log, and for as long as it lasts in ``/ready``.

    ``reasons`` keep the instance from serving or lose metrics, ``warnings`` do not.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)

    def set(self, subject: str, text: str | None, *, serious: bool = True) -> None:
        """The problem with a subject, always equally serious; None: it is solved."""
        known = self.reasons if serious else self.warnings
        if text is None:
            if known.pop(subject, None) is not None:
                log.info("solved", subject=subject)
        elif known.get(subject) != text:
            known[subject] = text
            log.warning(text, subject=subject)


@dataclass(slots=True)
class PartOfProblems:
    """What one part of the instance finds wrong; with the part its findings go (``clear``)."""

    whole: Problems
    serious: dict[str, bool] = field(default_factory=dict)
    """Of every subject of which something was said."""

    def set(self, subject: str, text: str | None, *, serious: bool = True) -> None:
        """As ``Problems.set``."""
        self.serious[subject] = serious
        self.whole.set(subject, text, serious=serious)

    def clear(self) -> None:
        """Nobody knows about these subjects any more."""
        for subject, serious in self.serious.items():
            (self.whole.reasons if serious else self.whole.warnings).pop(subject, None)
