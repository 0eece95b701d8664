"""``python -m m3x.warming``: kernels are compiled once, by whichever process comes first."""

import subprocess
import sys
from pathlib import Path

import pytest

from m3x import warming

KERNELS = "from numba import njit\n\n@njit(cache=True)\ndef part(x):\n    return x + 1\n\n" + "".join(
    f"@njit(cache=True)\ndef whole_{k}(x):\n    return part(x) * {k}\n\n" for k in range(3)
)
PROCESS = """
import sys, time
from pathlib import Path
from m3x.warming import share_kernels
import shared_kernels
folder, number, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
share_kernels(str(folder / "turns"))
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
    command = [sys.executable, "-c", PROCESS, str(folder)]
    started = [
        subprocess.Popen([*command, number, str(len(numbers))], stdout=subprocess.PIPE, text=True) for number in numbers
    ]
    said = [one.communicate(timeout=120)[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(numbers)
    return sum(map(int, said))


def test_processes_that_share_kernels_compile_each_once_and_keep_all(modules: Path) -> None:
    (modules / "shared_kernels.py").write_text(KERNELS)
    (modules / "turns").touch()
    # Four kernels, each for whole numbers and for fractions.
    assert compiled(modules, "0", "1", "2") == 8
    assert len(list(modules.rglob("*.nbc"))) == 8
    assert compiled(modules, "0") == 0


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
