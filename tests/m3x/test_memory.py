"""How much memory there is, from files as Linux has them."""

import os
from pathlib import Path

import pytest

from m3x.memory import UNLIMITED, available, memory_limit

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def system(root: Path, groups: str, **limits: str) -> Path:
    """A root with these lines in ``/proc/self/cgroup``, and limits by path below ``/sys/fs/cgroup`` (``__`` for a slash)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/a/b\n", {"a__memory_dot_max": str(300 * MIB), "a__b__memory_dot_max": "max"}, 300 * MIB),
        ("0::/a/b\n", {"a__memory_dot_max": "max", "a__b__memory_dot_max": str(200 * MIB)}, 200 * MIB),
        # A container sees its own group at the top, whatever the path says.
        ("0::/docker/x\n", {"memory_dot_max": str(100 * MIB)}, 100 * MIB),
        ("5:cpu,memory:/a\n", {"memory__a__memory_dot_limit_in_bytes": str(50 * MIB)}, 50 * MIB),
        ("5:memory:/a\n", {"memory__memory_dot_limit_in_bytes": str(60 * MIB)}, 60 * MIB),
        ("5:memory:/a\n", {"memory__a__memory_dot_limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("5:cpu:/a\n0::/a\n", {"a__memory_dot_max": str(70 * MIB)}, 70 * MIB),
        # Both versions at once: the smaller one.
        (
            "5:memory:/a\n0::/a\n",
            {"a__memory_dot_max": str(70 * MIB), "memory__a__memory_dot_limit_in_bytes": str(40 * MIB)},
            40 * MIB,
        ),
        ("nonsense\n\n", {"memory_dot_max": "nonsense"}, MACHINE),
        ("0::/\n", {"memory_dot_max": "0"}, MACHINE),
    ],
)
def test_the_smallest_limit_on_the_way_to_our_group_counts(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    found = available(system(tmp_path, groups, **limits))
    assert found.nbytes == expected
    assert ("control group" in found.source) == (expected != MACHINE)


def test_without_proc_it_is_the_machine(tmp_path: Path) -> None:
    assert available(tmp_path).nbytes == MACHINE


def test_half_of_it_is_the_default_and_a_file_says_more() -> None:
    half = memory_limit(0)
    assert half.nbytes == available().nbytes // 2
    assert half.source.startswith("half of the ")
    assert memory_limit(5 * MIB, "instance.memoryLimitBytes").nbytes == 5 * MIB
    assert memory_limit(5 * MIB, "instance.memoryLimitBytes").source == "instance.memoryLimitBytes"
    assert memory_limit(UNLIMITED).nbytes == 0
