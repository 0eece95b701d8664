"""One line of the doctor's result."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "note", "ok", "problem", "unknown"]


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
