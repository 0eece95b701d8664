"""What a process says of itself and asks of Linux."""

import subprocess
import sys
from pathlib import Path

import pytest

from m3x import process


def run(code: str) -> str:
    """What a Python process of its own prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_command_line_may_be_longer_than_the_first_one_and_the_environment_stays() -> None:
    said = run(
        "import os\nfrom m3x import process\n"
        "for line in (['short'], ['python', '-m', 'x' * 3000, 'é']):\n"
        "    assert process.set_command_line(line)\n"
        "    found = open('/proc/self/cmdline', 'rb').read()\n"
        "    assert found == b''.join(a.encode() + bytes(1) for a in line), found\n"
        "os.putenv('LATER', 'x')\nassert os.system('test \"$LATER\" = x') == 0\nprint('right')"
    )
    assert said == "right\n"


def test_numpy_starts_no_threads() -> None:
    said = run("from m3x import process\nprocess.start_no_threads()\nimport numpy\nprint(process.threads())")
    assert said == "1\n"


def test_memory_that_is_shared_is_counted_in_part() -> None:
    # In a process of its own, in which nobody else takes memory or gives it back.
    said = run("""
import os, signal
from m3x import process
before = process.proportional_bytes()
ballast = bytearray(os.urandom(32 << 20))
alone = process.proportional_bytes()
assert alone - before > 30 << 20, (before, alone)
pid = os.fork()
if pid == 0:
    signal.pause()
try:
    assert process.proportional_bytes() < alone - (12 << 20)
    assert process.resident_bytes() > len(ballast)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print("right")
""")
    assert said == "right\n"


def test_large_blocks_go_back_to_the_system_whatever_lies_between_them() -> None:
    code = """
import gc
from m3x import process
process.map_large_blocks(1 << 16)
before = process.resident_bytes()
large, small = [], []
for _ in range(640):
    large.append(b"x" * 100_000)
    small.append(b"y" * 1000)
held = process.resident_bytes() - before
del large
gc.collect()
print(held >> 20, process.resident_bytes() - before >> 20)
"""
    held, left = map(int, run(code).split())
    assert held > 50
    assert left < 8


def test_a_process_that_is_gone_has_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not Path(f"/proc/{gone.pid}").exists()
    assert (process.proportional_bytes(gone.pid), process.resident_bytes(gone.pid)) == (0, 0)
    assert process.cpu_seconds(gone.pid) == 0.0


@pytest.mark.parametrize(("soft", "hard", "becomes"), [(256, 8192, 8192), (1024, 1024, 1024), (4096, 4096, 4096)])
def test_as_many_files_may_be_open_as_the_system_allows(soft: int, hard: int, becomes: int) -> None:
    said = run(
        f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\nfrom m3x import process\n"
        "process.raise_open_files()\nprint(process.open_files(), process.few_open_files())"
    )
    few = f"at most {becomes} files and connections may be open"
    assert said.startswith(f"{becomes} {few if becomes < 4096 else None}")
