"""Processes of one service: die with the parent, take over its orphans, say what you are, measure yourself."""

import ctypes
import mmap
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
_PR_SET_CHILD_SUBREAPER = 36
_MADV_DONTNEED = 4
_M_MMAP_THRESHOLD = -3
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MANY_FILES = 1 << 20
"""More than these are not asked for: there are programs that go through all numbers."""
_ENOUGH_FILES = 4096
_WANTED_FILES = 65536
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class _MemoryMap(ctypes.Structure):
    """``struct prctl_mm_map``: where the parts of a process lie."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in (
            "start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack", "arg_start", "arg_end", "env_start",
            "env_end", "auxv",
        )),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]  # fmt: skip


def boot_id() -> str:
    """Identifies the running boot of this machine: ``CLOCK_BOOTTIME`` means nothing in another one, nor is there what no disk had."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def die_with_parent(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends, and leaves at once if the parent (its pid) is already gone."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(f"parent process {parent} has ended")


def adopt_orphans(wanted: bool) -> None:
    """Whether this process becomes the parent of descendants whose own parent ends (a *subreaper*, prctl(2))."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, int(wanted))


def set_command_line(arguments: Sequence[str]) -> bool:
    """What ``ps`` shows of this process from now on; False where the kernel does not offer that: all stays as it was."""
    text = b"".join(argument.encode() + b"\0" for argument in arguments)
    # The kernel reads private memory only, and as long as the process lives: it is never given back.
    memory = mmap.mmap(-1, len(text), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(text)
    place = ctypes.c_char.from_buffer(memory)
    found = _stat("self")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    start = ctypes.addressof(place)
    described = _MemoryMap(
        start_code=int(found[23]), end_code=int(found[24]), start_stack=int(found[25]), start_data=int(found[42]),
        end_data=int(found[43]), start_brk=int(found[44]), brk=libc.sbrk(0), arg_start=start, arg_end=start + len(text),
        env_start=int(found[47]), env_end=int(found[48]), exe_fd=0xFFFFFFFF,
    )  # fmt: skip
    if libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(described), ctypes.sizeof(described), 0) != 0:
        return False
    _command_lines.append(place)
    return True


_command_lines: list[ctypes.c_char] = []
"""The memory of ``set_command_line``."""


def start_no_threads() -> None:
    """Keeps numpy, imported afterwards, from starting the threads of its BLAS, which nobody here uses: a process with threads cannot be
    forked."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def map_large_blocks(nbytes: int) -> None:
    """From now on memory that is asked for in blocks of at least so many bytes goes back to the system as soon as it is not used any more.

    Else a process whose threads hand each other blocks keeps what it once had at most, and more, in pieces. Costs a page fault per 4 KiB.
    Without effect where the C library has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, nbytes)


def give_back_memory() -> None:
    """Gives pages back to the system that hold nothing any more; for after work that took much memory in small pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def open_files() -> int:
    """How many files and connections this process may have open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MANY_FILES if files == resource.RLIM_INFINITY else files


def files_in_use() -> int:
    """How many it has open."""
    return len(os.listdir("/proc/self/fd"))


def raise_open_files() -> None:
    """Lets this process and its children have as many files and connections open as the system allows it, the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def few_open_files() -> str | None:
    """What to say if few files may be open; None: they will do."""
    files = open_files()
    if files >= _ENOUGH_FILES:
        return None
    return (
        f"at most {files} files and connections may be open: further connections are refused then; allow {_WANTED_FILES} "
        "(LimitNOFILE= of a systemd unit, ulimit -Hn of a shell)"
    )


def unmap_code() -> None:
    """Takes the code of all libraries out of this process's memory; what is still needed comes back from the page cache when it is run.

    After compiled functions were loaded, the compiler's (LLVM, 50 MiB) is not. Code is never written to, so nothing is lost.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, access, _, _, inode, *_ = line.split()
            if access == "r-xp" and inode != "0":
                start, end = (int(number, 16) for number in span.split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def threads() -> int:
    """How many threads this process has, those of libraries among them."""
    return len(os.listdir("/proc/self/task"))


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def own_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process that is neither a file nor meant to be shared; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            fields = statm.read().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def proportional_bytes(pid: int | str = "self") -> int:
    """Memory of a process, a page that n processes share counted as an n-th (PSS); 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    except OSError:
        return 0


def written_bytes(pid: int | str = "self") -> int:
    """Bytes that a process and its ended children have written; 0 if it is gone, or does not let itself be asked."""
    try:
        with open(f"/proc/{pid}/io") as figures:
            found = dict(line.split(": ") for line in figures)
    except OSError:
        return 0
    return int(found["wchar"])


class CpuShare:
    """How much of a core this process takes."""

    def __init__(self) -> None:
        self._cpu_s, self._at_s = time.process_time(), time.monotonic()

    def since_last(self) -> float:
        """From the last call to this one; 1: a whole core."""
        cpu_s, at_s = time.process_time(), time.monotonic()
        share = (cpu_s - self._cpu_s) / max(at_s - self._at_s, 1e-9)
        self._cpu_s, self._at_s = cpu_s, at_s
        return share


def cpu_seconds(pid: int | str = "self", *, children: bool = False) -> float:
    """User plus system time of a process so far, with ``children`` that of those that have ended as well; 0 if it is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if children else 13])) / _TICKS_PER_SECOND


def _stat(pid: int | str) -> list[str]:
    """The fields of proc(5) from the third on. Raises ``OSError``."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()


def _prctl(name: str, option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name}) failed")
