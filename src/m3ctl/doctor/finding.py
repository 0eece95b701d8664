"""One line of the doctor's result."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "note", "ok", "problem", "unknown", "waiting"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` names what was looked at; ``fix`` says what to do about a problem."""

    status: Literal["ok", "problem", "note", "unknown"]
    check: str
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding("ok", check, text)


def problem(check: str, text: str, fix: str) -> Finding:
    """Something that keeps metrics from flowing, or will."""
    return Finding("problem", check, text, fix)


def note(check: str, text: str) -> Finding:
    """No problem, but worth knowing."""
    return Finding("note", check, text)


def unknown(check: str, text: str, fix: str = "") -> Finding:
    """Cannot be found out; ``fix``: how it could be."""
    return Finding("unknown", check, text, fix)


def waiting(reason: str) -> str:
    """The fix of what a service misses only because a new placement is not cut over yet; empty: it misses something else."""
    return "wait: a new placement cuts over at the next whole minute" if "cut over" in reason else ""
