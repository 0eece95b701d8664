"""Where compiled kernels are kept: beside the sources of a checkout, as numba does it; those of an installed package in their own folder.

numba by itself looks for changes in the file of a kernel only, while a kernel contains what it imports: after an upgrade it could be the
old one. And it fails where neither ``site-packages`` nor a home can be written. So an installed package has a folder for each state of
its files, ``m3-kernels-DIGEST``, in the first of these that can be written:

1. ``$NUMBA_CACHE_DIR``
2. ``$CACHE_DIRECTORY``, which systemd sets (``CacheDirectory=``)
3. ``var/cache`` below the prefix of this Python, such as a virtual environment
4. ``$XDG_CACHE_HOME``, or ``~/.cache``
5. the directory of temporary files, where the folder must be ours and nobody else's

Kernels that were compiled in an earlier one that cannot be written any more, as in a container image, are linked to from there. Machine
code is of one kind of processor: another one compiles anew (``NUMBA_CPU_NAME`` names one for machines of several kinds).
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from m3x.log import logger

__all__ = ["choose", "prepare", "warm_up"]

log = logger(__name__)

_PACKAGES = Path(__file__).resolve().parents[1]
_RECORDS = "m3_aggregation_tier-*.dist-info/RECORD"
_VARIABLE = "NUMBA_CACHE_DIR"
_LOCK = "lock"


def choose() -> Path | None:
    """Tells numba, which must not be loaded yet, and all processes that are started from this one. None: it decides itself (a checkout).

    Raises ``SystemExit`` where nothing can be written.
    """
    name = _folder_name()
    if name is None:
        return None
    given = os.environ.get(_VARIABLE, "")
    if Path(given).name == name:
        return Path(given)
    compiled, chosen = [], None
    for base in _bases(given):
        if _writable(base / name):
            chosen = base / name
            break
        if (base / name).is_dir():
            compiled.append(base / name)
    if chosen is None:
        chosen = _temporary(name)
    for folder in compiled:
        _link(folder, chosen)
    os.environ[_VARIABLE] = str(chosen)
    return chosen


def prepare(service: str, modules: Sequence[str]) -> None:
    """Compiles the kernels of ``modules`` in a process of their own, and says so in the log, unless that was done for ``service`` on this
    kind of processor. In a checkout it does nothing."""
    folder = choose()
    if folder is None or _is_compiled(folder, service):
        return
    log.info("compiling kernels, once for this version on this machine", folder=str(folder))
    if _compile(folder, service, modules, log.info) != 0:
        log.warning("not all kernels could be compiled: the first samples wait for those that are left")


def warm_up(service: str, modules: Sequence[str], say: Callable[[str], None]) -> int:
    """``prepare`` as a command: ``say`` hears lines. Returns the exit code."""
    folder = choose()
    if folder is None:
        return subprocess.run([sys.executable, "-m", "m3x.warming", *modules], check=False).returncode
    if _is_compiled(folder, service):
        say(f"the kernels are compiled: {folder}\n")
        return 0
    say(f"compiling kernels into {folder}\n")
    return _compile(folder, service, modules, lambda line: say(f"{line}\n"))


def _compile(folder: Path, service: str, modules: Sequence[str], say: Callable[[str], None]) -> int:
    with (folder / _LOCK).open("a") as lock:
        # Another process may do it just now.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_compiled(folder, service):
            return 0
        command = [sys.executable, "-m", "m3x.warming", "--child-of", str(os.getpid()), *modules]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as compiler:
            assert compiler.stdout is not None
            for line in compiler.stdout:
                say(line.rstrip("\n"))
        if compiler.returncode == 0:
            _stamp(folder, service).touch()
        return compiler.returncode


def _is_compiled(folder: Path, service: str) -> bool:
    return _stamp(folder, service).exists()


def _stamp(folder: Path, service: str) -> Path:
    """Is there when all kernels of the service are, for this Python, this numba and this processor."""
    with contextlib.suppress(OSError):
        lines = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(_PROCESSOR)}
        named = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
        versions = sys.version, metadata.version("numba")
        of = repr((platform.machine(), sorted(lines) if named[0] is None else "", named, versions))
        return folder / f"{service}-{hashlib.sha256(of.encode()).hexdigest()[:16]}"
    return folder / f"{service}-{platform.machine()}"


_PROCESSOR = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def _folder_name() -> str | None:
    """None: this is no installed package."""
    records = sorted(_PACKAGES.glob(_RECORDS))
    if not records:
        return None
    kept = sorted(line for line in records[-1].read_text().splitlines() if ".py," in line and "sha256=" in line)
    if not any(line.startswith("m3x/") for line in kept):
        # Links to a checkout.
        return None
    digest = hashlib.sha256("\n".join(kept).encode()).hexdigest()
    return f"m3-kernels-{digest[:16]}"


def _bases(given: str) -> Iterator[Path]:
    if given:
        yield Path(given)
    if directories := os.environ.get("CACHE_DIRECTORY", ""):
        yield Path(directories.split(":")[0])
    yield Path(sys.prefix) / "var/cache"
    if home := os.environ.get("XDG_CACHE_HOME", ""):
        yield Path(home)
    with contextlib.suppress(RuntimeError):
        yield Path.home() / ".cache"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _temporary(name: str) -> Path:
    """A folder that nobody else can have put machine code into."""
    folder = Path(tempfile.gettempdir()) / f"m3-kernels-of-{os.geteuid()}"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            (folder / name).mkdir(exist_ok=True)
            return folder / name
    try:
        private = Path(tempfile.mkdtemp(prefix="m3-kernels-")) / name
        private.mkdir()
    except OSError as error:
        raise SystemExit(
            f"compiled kernels can be kept nowhere: set {_VARIABLE} to a directory that can be written ({error})"
        ) from error
    return private


def _link(compiled: Path, folder: Path) -> None:
    """Links to everything in ``compiled``, where ``folder`` has nothing of that name; numba replaces links by files of its own."""
    for path in compiled.rglob("*"):
        place = folder / path.relative_to(compiled)
        with contextlib.suppress(FileExistsError):
            if path.is_dir():
                place.mkdir(parents=True)
            elif path.name != _LOCK:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
