"""``python -m m3x.warming``: kernels are compiled once, by whichever process comes first."""

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from m3x import warming
from m3x.memory import Available

KERNELS = "from numba import njit\n\n@njit(cache=True)\ndef part(x):\n    return x + 1\n\n" + "".join(
    f"@njit(cache=True)\ndef whole_{k}(x):\n    return part(x) * {k}\n\n" for k in range(3)
)
PROCESS = """
import sys, time
from pathlib import Path
from m3x.warming import share_kernels
import shared_kernels
folder, turns, number, count = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
share_kernels(turns)
(folder / f"ready.{number}").touch()
while len(list(folder.glob("ready.*"))) < count:
    time.sleep(0.001)
kernels = [shared_kernels.part, *(getattr(shared_kernels, f"whole_{k}") for k in range(3))]
for kernel in kernels[1:]:
    for value in (1, 1.0) if number == "0" else (1.0, 1):
        kernel(value)
print(sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that this process and those that it starts can import."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def compiled(folder: Path, *numbers: str) -> int:
    """How many kernels these processes have compiled, side by side."""
    for ready in folder.glob("ready.*"):
        ready.unlink()
    with open(os.memfd_create("turns"), "r+b") as turns:
        command = [sys.executable, "-c", PROCESS, str(folder), str(turns.fileno())]
        started = [
            subprocess.Popen(
                [*command, number, str(len(numbers))], stdout=subprocess.PIPE, text=True, pass_fds=(turns.fileno(),)
            )
            for number in numbers
        ]
        said = [one.communicate(timeout=120)[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(numbers)
    return sum(map(int, said))


def test_processes_that_share_kernels_compile_each_once_and_keep_all(modules: Path) -> None:
    (modules / "shared_kernels.py").write_text(KERNELS)
    # Four kernels, each for whole numbers and for fractions.
    assert compiled(modules, "0", "1", "2") == 8
    assert len(list(modules.rglob("*.nbc"))) == 8
    assert compiled(modules, "0") == 0


HOLDER = """
import fcntl, sys
turns = int(sys.argv[1])
try:
    fcntl.lockf(turns, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 << 55)
    print("has it", flush=True)
except BlockingIOError:
    print("has it not", flush=True)
sys.stdin.read()
"""


def test_of_processes_that_have_inherited_one_open_file_one_holds_a_lock() -> None:
    with open(os.memfd_create("turns"), "r+b") as turns:
        command = [sys.executable, "-c", HOLDER, str(turns.fileno())]

        def start() -> "subprocess.Popen[str]":
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(turns.fileno(),)
            )

        def said(one: "subprocess.Popen[str]") -> str:
            assert one.stdout is not None
            return one.stdout.readline()

        with start() as first, start() as second:
            assert {said(first), said(second)} == {"has it\n", "has it not\n"}
            for one in (first, second):
                one.communicate(timeout=60)
        # It has gone with its process.
        with start() as third:
            assert said(third) == "has it\n"
            third.communicate(timeout=60)


FAILING = """
import shared_failing

def warm():
    try:
        shared_failing.wrong(1)
    except Exception:
        return
    raise AssertionError("that was to fail")
"""


def test_a_kernel_that_one_process_could_not_compile_keeps_no_other_waiting(modules: Path) -> None:
    (modules / "shared_failing.py").write_text(
        "from numba import njit\n\n@njit(cache=True)\ndef wrong(x):\n    return x + 'no number'\n"
    )
    for name in ("first", "second"):
        (modules / f"warmed_{name}.py").write_text(FAILING)
    with open(os.memfd_create("turns"), "r+b") as turns:
        command = [sys.executable, "-m", "m3x.warming", "--turns", str(turns.fileno())]
        started = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(turns.fileno(),)
            )
            for _ in range(2)
        ]
        try:
            # The first one has nothing more to do then, and goes on to run.
            for one, name in zip(started, ("first", "second"), strict=True):
                assert one.stdin is not None
                assert one.stdout is not None
                print(f"warmed_{name}", file=one.stdin, flush=True)
                assert select.select([one.stdout], [], [], 60)[0], f"{name}: no answer"
                assert json.loads(one.stdout.readline())[0] == "done"
        finally:
            for one in started:
                one.kill()
                one.communicate()


def test_a_module_that_is_named_twice_is_warmed_once(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        (modules / f"warmed_{name}.py").write_text("def warm():\n    pass\n")
    assert warming.warm_all(["warmed_first", "warmed_second", "warmed_first", "warmed_second"]) == 0
    heads = sorted(line.partition(": done in ")[0].rsplit(" ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert heads == ["warmed_first", "warmed_second"]


def test_no_directory_for_temporary_files_is_needed(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(modules / "none"))
    monkeypatch.setenv("TMPDIR", str(modules / "none"))
    (modules / "warmed_first.py").write_text("def warm():\n    pass\n")
    assert warming.warm_all(["warmed_first"]) == 0


GIB = 1 << 30


@pytest.mark.parametrize(
    ("nbytes", "processors", "modules", "expected"),
    [
        (64 * GIB, 64, 7, 3),
        (64 * GIB, 2, 7, 2),
        (64 * GIB, 64, 1, 1),
        (3 * GIB, 64, 7, 3),
        (3 * GIB - 1, 64, 7, 2),
        (GIB, 64, 7, 1),
        (200 << 20, 64, 7, 1),
    ],
)
def test_there_are_no_more_processes_than_there_is_memory_for(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, processors: int, modules: int, expected: int
) -> None:
    monkeypatch.setattr(warming, "available", lambda: Available(nbytes, "the test"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert warming._processes(modules) == expected


def test_modules_are_counted_as_they_are_done(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second", "third"):
        (modules / f"warmed_{name}.py").write_text("def warm():\n    pass\n")
    assert warming.warm_all(["warmed_first", "warmed_second", "warmed_third"]) == 0
    heads = [line.partition(": done in ")[0].rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [head for head, _ in heads] == [f"compiling kernels {number}/3" for number in (1, 2, 3)]
    assert {name for _, name in heads} == {"warmed_first", "warmed_second", "warmed_third"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no such dtype')", "no such dtype"),
        ("import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)", "its process has ended"),
    ],
)
def test_what_goes_wrong_is_told_and_ends_the_others(
    modules: Path, capsys: pytest.CaptureFixture[str], body: str, reason: str
) -> None:
    (modules / "warmed_wrong.py").write_text(f"def warm():\n    {body}\n")
    (modules / "warmed_for_long.py").write_text("import time\n\ndef warm():\n    time.sleep(3600)\n")
    assert warming.warm_all(["warmed_wrong", "warmed_for_long"]) == 1
    said = capsys.readouterr().out
    assert ": failed: " in said
    assert reason in said
