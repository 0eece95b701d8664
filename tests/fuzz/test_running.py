"""What the runs would find: each kind of fault, put into a parser on purpose, ends as a report."""

import mmap
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.fuzz.cliff import laid, room
from tests.fuzz.mutations import MAX_BYTES, inputs, mutated
from tests.fuzz.parser import LEFT, Difference, Parser

ROOT = Path(__file__).parents[2]

FAULTY = """
import sys
from tests.fuzz.cliff import laid, room
from tests.fuzz.parser import Parser
from tests.fuzz.running import run
from m3x.kernels import base, load8, store8
import numpy as np, numba

@numba.njit
def read(buf, at):
    return load8(base(buf) + np.uint64(at))

@numba.njit
def write(buf, at):
    store8(base(buf) + np.uint64(at), np.uint64(1))

def hang(data):
    while True: pass

kinds = dict(
    far=lambda data: read(laid(data), len(data)),
    near=lambda data: data and read(laid(data), len(data) - 1),
    beyond=lambda data: write(room(len(data)), len(data)),
    hungry=lambda data: bytearray(1 << 34),
    hangs=hang,
    undocumented=lambda data: {}[data],
    documented=lambda data: int(data),
    differs=lambda data: data,
)
import tests.fuzz.running as running
running.INPUT_CPU_S = 0.2
read(laid(b"x"), 0)
write(room(1), 0)
name = sys.argv[1]

def only_of_others(data):
    return b"" if data == b"seed" else kinds[name](data)

plain = (lambda data: b"") if name == "differs" else None
report = run(Parser(name, lambda: [b"seed"], only_of_others, (ValueError,), plain), "0", 50)
print(report.ran, report.input, report.fault)
"""


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("far", "it crashes: SIGSEGV"),
        ("beyond", "it crashes: SIGSEGV"),
        ("hungry", "MemoryError"),
        ("hangs", "it hangs"),
        ("undocumented", "KeyError"),
        ("differs", "Difference"),
        ("near", ""),
        ("documented", ""),
    ],
)
def test_what_is_found(fault: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTY, fault], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    ran, _, found = done.stdout.partition(" ")
    assert text in found if text else (ran, found.strip()) == ("50", "")
    assert text == "" or int(ran) < 50


SEVERAL = """
import time
from tests.fuzz.parser import Parser
from tests.fuzz.running import run_all

def read(data):
    time.sleep(0.001)

def slow(data):
    time.process_time()

rows = [Parser(name, lambda: [b"seed"], read) for name in "abc"] + [Parser("slow", lambda: [b"seed"], slow)]
said = []
for report in run_all(rows[:3], "0", 100, jobs=2, tell=said.append, every_s=0.02):
    print(report.name, report.ran, report.fault)
print("slow", next(run_all(rows[3:], "0", 1 << 40, cpu_s=0.1)).ran > 100)
print(sorted({line.split()[0] for line in said}))
"""


def test_several_at_a_time_say_how_far_they_are_and_end_when_their_time_is_up() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    *reports, slow, said = done.stdout.splitlines()
    assert sorted(reports) == ["a 100 ", "b 100 ", "c 100 "]
    assert slow == "slow True"
    assert set(said) >= set("a:")


@pytest.mark.parametrize("word", [b"9", b"ab"])
def test_each_word_comes_as_often_as_there_is_room_for_it(word: bytes) -> None:
    seeds = [b"seed", b"x"]
    alone, behind, before, within = list(inputs(seeds, [word], "1", 6))[2:]
    many = word * ((MAX_BYTES - 4) // len(word))
    assert (alone, behind, before, within) == (many, b"seed" + many, many + b"seed", b"se" + many + b"ed")


def test_inputs_are_the_same_again_and_differ_by_seed() -> None:
    seeds, words = [b"one", b"another"], [b"word"]
    first = list(inputs(seeds, words, "1", 200))
    assert first[:2] == seeds
    assert len(first) == 200
    assert first == list(inputs(seeds, words, "1", 200))
    assert first[2:] != list(inputs(seeds, words, "2", 200))[2:]
    assert len(set(first)) > 100


def test_inputs_stay_small() -> None:
    chance = random.Random(1)
    assert max(len(mutated(chance, [b"x" * MAX_BYTES], ())) for _ in range(500)) <= MAX_BYTES


def test_what_the_compiled_reader_leaves_is_not_compared() -> None:
    Parser("left", lambda: [], lambda _: LEFT, plain=lambda _: 1).check(b"")
    with pytest.raises(Difference):
        Parser("differs", lambda: [], lambda _: 2, plain=lambda _: 1).check(b"")


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, 1 << 17, (1 << 17) + 1])
def test_bytes_end_where_memory_ends(size: int) -> None:
    data = bytes(size)
    found = laid(data)
    assert found.tobytes() == data
    assert found.flags.writeable
    assert (found.ctypes.data + size) % mmap.PAGESIZE == 0
    assert np.all(room(size) == 0xEE)
