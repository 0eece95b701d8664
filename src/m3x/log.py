"""Structured log lines on standard error: one JSON object a line, or ``key=value`` text on a terminal.

``log = logger(__name__)``, then ``log.info("placement received", version=3)``. What input from the network can cause at any rate is
logged through the ``*_limited`` methods: at most ``per_second`` lines a second for one message text, with the number left out in
between.
"""

import json
import mmap
import sys
import time
import traceback
from typing import Any, TextIO

__all__ = ["LEVELS", "Logger", "configure", "last_error", "left_out", "level", "logger", "set_level", "share_level"]

LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}


_MOST_TEXTS = 1024
"""Of one logger, whose lines are limited."""


class _Output:
    """Where and from which level on the process logs."""

    def __init__(self) -> None:
        self.level = LEVELS["info"]
        self.stream: TextIO | None = None
        self.fields: dict[str, Any] = {}
        self.last_error = ""
        self.left_out = 0
        self.told: mmap.mmap | None = None
        """One byte that this process shares with those forked from it: the level that was set while they run; 0: none was."""
        self.gone = False
        """Nobody reads what it says."""

    def least(self) -> int:
        """The level from which on it logs."""
        return self.level if self.told is None or self.gone else self.told[0] or self.level


_output = _Output()


def configure(level: str = "info", stream: TextIO | None = None, /, **fields: Any) -> None:
    """Sets the level (``debug``, ``info``, ``warn``, ``error``), the stream and fields that every line carries (``process="front"``)."""
    _output.level = _number(level)
    _output.stream = stream
    _output.fields = fields
    _output.gone = False


def _number(level: str) -> int:
    if level.lower() not in LEVELS:
        raise ValueError(f"unknown log level {level!r}; expected one of {', '.join(sorted(set(LEVELS) - {'warning'}))}")
    return LEVELS[level.lower()]


def share_level() -> None:
    """From now on ``set_level`` reaches processes that are forked from this one, directly or through others."""
    if _output.told is None:
        _output.told = mmap.mmap(-1, 1)


def set_level(level: str) -> None:
    """Another level while the process runs. Raises ``ValueError`` for one that there is not."""
    _output.level = _number(level)
    if _output.told is not None:
        _output.told[0] = _output.level


def level() -> str:
    """The level in effect."""
    return next(name for name, number in LEVELS.items() if number >= _output.least()) if not _output.gone else "none"


def left_out() -> int:
    """How many lines of this process were not written: of one text too many in a second, or the disk was full."""
    return _output.left_out


def last_error() -> str:
    """The newest line of level ``error`` of this process, in short; empty: there was none."""
    return _output.last_error


def _keep_error(message: str, fields: dict[str, Any]) -> None:
    _output.last_error = f"{message}: {fields['error']}" if "error" in fields else message


def logger(name: str) -> "Logger":
    """A logger whose lines carry ``name``."""
    return Logger(name)


class Logger:
    """Writes lines; cheap to create, one per module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limits: dict[str, tuple[float, int]] = {}

    def debug(self, message: str, **fields: Any) -> None:
        """For someone who looks for a cause."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """What an operator wants to know once."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something is not as it should be; nothing is lost yet, or the loss is counted."""
        self._write("warn", message, fields)

    def error(self, message: str, *, exception: BaseException | None = None, **fields: Any) -> None:
        """Something failed; ``exception`` adds its traceback."""
        if exception is not None:
            fields["error"] = f"{type(exception).__name__}: {exception}"
            fields["traceback"] = "".join(traceback.format_exception(exception))
        _keep_error(message, fields)
        self._write("error", message, fields)

    def info_limited(self, message: str, *, per_second: float = 1.0, **fields: Any) -> None:
        """``info``, at most ``per_second`` times a second for this message text."""
        self._limited("info", message, per_second, fields)

    def warning_limited(self, message: str, *, per_second: float = 1.0, **fields: Any) -> None:
        """``warning``, at most ``per_second`` times a second for this message text."""
        self._limited("warn", message, per_second, fields)

    def error_limited(self, message: str, *, per_second: float = 1.0, **fields: Any) -> None:
        """``error``, at most ``per_second`` times a second for this message text."""
        _keep_error(message, fields)
        self._limited("error", message, per_second, fields)

    def _limited(self, level: str, message: str, per_second: float, fields: dict[str, Any]) -> None:
        now = time.monotonic()
        next_at, left_out = self._limits.get(message, (0.0, 0))
        if now < next_at:
            self._limits[message] = (next_at, left_out + 1)
            _output.left_out += 1
            return
        if len(self._limits) >= _MOST_TEXTS:
            self._limits = {text: one for text, one in self._limits.items() if one[0] > now}
        self._limits[message] = (now + 1.0 / per_second, 0)
        if left_out:
            fields["left_out"] = left_out
        self._write(level, message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < _output.least():
            return
        stream = _output.stream or sys.stderr
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        everything = {**_output.fields, **fields}
        if stream.isatty():
            rest = " ".join(f"{key}={value}" for key, value in everything.items() if key != "traceback")
            line = (
                f"{stamp} {level:<5} {self._name}: {message} {rest}".rstrip()
                + "\n"
                + str(everything.get("traceback", ""))
            )
        else:
            line = (
                json.dumps(
                    {"ts": stamp, "level": level, "logger": self._name, "msg": message, **everything}, default=str
                )
                + "\n"
            )
        try:
            stream.write(line)
            stream.flush()
        except (BrokenPipeError, ValueError):
            # Whoever read our standard error has gone; logging must not end the service.
            _output.level, _output.gone = LEVELS["error"] + 1, True
        except OSError:
            # A full disk takes no lines, and nothing can be said of it here; it may take them again.
            _output.left_out += 1
