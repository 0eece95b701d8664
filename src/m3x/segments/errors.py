"""What can go wrong with a log, by what its owner does about it."""

import errno as errnos
from pathlib import Path

__all__ = ["AppendError", "DirectoryError", "DirectoryLocked", "SegmentError", "VersionError", "is_full"]


class SegmentError(Exception):
    """Any failure of a log; the text says what was found and what to do."""


class DirectoryError(SegmentError):
    """The directory cannot be made, read or written; ``errno`` as the system says it."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {_reason(error)}; {_advice(error)}")
        self.errno = error.errno


class DirectoryLocked(SegmentError):
    """Another process has the directory; trying again later is right when that process is known to end."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder}: stop that process, or give this one a directory of its own")
        self.holder = holder


class VersionError(SegmentError):
    """The directory is of a format that this release does not read. Nothing in it was touched."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        super().__init__(
            f"{path} has format version {found}, this release reads version {known}: "
            "run the release that wrote it, or move the directory away"
        )
        self.found = found


class AppendError(SegmentError):
    """A record was not appended, and nothing of it is left in the log. The next call simply tries again."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"cannot append to {path}: {_reason(error)}; {_advice(error)}, appending then goes on by itself"
        )
        self.errno = error.errno


def is_full(error: OSError) -> bool:
    """Whether there is no room, or no more than this process may use."""
    return error.errno in (errnos.ENOSPC, errnos.EDQUOT, errnos.EFBIG)


def _advice(error: OSError) -> str:
    if is_full(error):
        return "make room on its file system"
    if error.errno in (errnos.EACCES, errnos.EPERM, errnos.EROFS, errnos.ENOTDIR, errnos.EEXIST):
        return "the directory must be writable and belong to the user that runs this process"
    return "look after its file system"


def _reason(error: OSError) -> str:
    name = errnos.errorcode.get(error.errno or 0, "OSError")
    return f"{error.strerror or error} ({name})"
