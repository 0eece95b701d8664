"""Which folder kernels of an installed package are kept in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3x import kernel_cache

RECORD = "m3x/log.py,sha256=abc,10\naggregator/cli.py,sha256=def,20\nm3x/__pycache__/log.cpython-311.pyc,,\n"
NAMES = ("NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package; its environment has room for a cache."""
    made = tmp_path / "site-packages"
    (made / "m3_aggregation_tier-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(kernel_cache, "_PACKAGES", made)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in NAMES:
        # Set first, so that what ``choose`` sets is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    record(made)
    return made


def record(site: Path, text: str = RECORD) -> None:
    (site / "m3_aggregation_tier-1.0.dist-info/RECORD").write_text(text)


def chosen() -> Path:
    """As in a new process."""
    os.environ.pop("NUMBA_CACHE_DIR", None)
    found = kernel_cache.choose()
    assert found is not None
    assert os.environ["NUMBA_CACHE_DIR"] == str(found)
    assert found.is_dir()
    return found


def block(path: Path) -> None:
    """No folder can be made here, not even by root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


@pytest.mark.parametrize("text", ["", "__editable__.m3.pth,sha256=abc,10\n../../../bin/m3ctl,sha256=x,10\n"])
def test_a_checkout_is_left_to_numba(site: Path, text: str) -> None:
    record(site, text)
    assert kernel_cache.choose() is None
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_this_process_runs_from_a_checkout() -> None:
    assert kernel_cache.choose() is None


def test_the_folder_is_that_of_the_files(site: Path) -> None:
    first = chosen()
    record(site, "\n".join(reversed(RECORD.splitlines())) + "\nm3x/__pycache__/new.pyc,,\n")
    assert chosen() == first
    record(site, RECORD.replace("abc", "changed"))
    assert chosen() != first


def test_the_first_place_that_can_be_written_is_taken(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [
        tmp_path / "given",
        tmp_path / "managed",
        tmp_path / "env/var/cache",
        tmp_path / "xdg",
        tmp_path / "home/.cache",
    ]
    monkeypatch.setenv("CACHE_DIRECTORY", f"{places[1]}:/elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places[3]))
    for place in places:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(places[0]))
        found = kernel_cache.choose()
        assert found is not None
        assert found.parent == place
        # The children of this process.
        assert kernel_cache.choose() == found
        found.rmdir()
        place.rmdir()
        block(place)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(places[0]))
    found = kernel_cache.choose()
    assert found is not None
    assert found.parent == tmp_path / f"m3-kernels-of-{os.geteuid()}"
    assert found.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["open", "link"])
def test_a_temporary_folder_of_somebody_else_is_not_used(site: Path, tmp_path: Path, how: str) -> None:
    for place in ("env/var/cache", "home/.cache"):
        block(tmp_path / place)
    ours = tmp_path / f"m3-kernels-of-{os.geteuid()}"
    if how == "open":
        ours.mkdir()
        ours.chmod(0o777)
    else:
        (tmp_path / "theirs").mkdir(mode=0o700)
        ours.symlink_to(tmp_path / "theirs")
    found = chosen()
    assert found.parent != ours
    assert found.parent.stat().st_mode & 0o777 == 0o700


def test_who_can_write_nowhere_is_told(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("env/var/cache", "home/.cache", f"m3-kernels-of-{os.geteuid()}"):
        block(tmp_path / place)

    def full(**_: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(SystemExit, match="set NUMBA_CACHE_DIR"):
        kernel_cache.choose()


def test_what_is_compiled_and_cannot_be_written_is_linked_to(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = chosen()
    (compiled / "engine_1").mkdir()
    (compiled / "engine_1/kernel.nbi").write_text("index")
    (compiled / "lock").write_text("")
    monkeypatch.setattr(
        kernel_cache, "_writable", lambda folder: not folder.is_relative_to(tmp_path / "env") and writable(folder)
    )
    found = chosen()
    assert found.parent == tmp_path / "home/.cache"
    assert (found / "engine_1/kernel.nbi").read_text() == "index"
    assert not (found / "lock").exists()
    # numba renames files of its own over them.
    (found / "new").write_text("ours")
    (found / "new").replace(found / "engine_1/kernel.nbi")
    assert chosen() == found
    assert (found / "engine_1/kernel.nbi").read_text() == "ours"
    assert (compiled / "engine_1/kernel.nbi").read_text() == "index"


writable = kernel_cache._writable


def test_kernels_are_compiled_once_for_a_service_and_a_processor(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen()
    compiled: list[str] = []
    modules = {"one": ("m3x.table_kernels",), "other": ("aggregator.ipc",)}

    def compile_(service: str) -> int:
        return kernel_cache.warm_up(service, modules[service], compiled.append)

    assert compile_("one") == 1  # it has no warm()
    assert "failed" in compiled[-1]
    script = "import sys\nprint('compiling', sys.argv[-1])\n"
    monkeypatch.setattr(sys, "executable", str(fake_python(site, script)))
    assert compile_("one") == 0
    assert compiled[-1] == "compiling m3x.table_kernels\n"
    assert compile_("one") == 0
    assert compiled[-1].startswith("the kernels are compiled")
    assert compile_("other") == 0
    assert compiled[-1] == "compiling aggregator.ipc\n"
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v2")
    assert compile_("one") == 0
    assert compiled[-1] == "compiling m3x.table_kernels\n"


def fake_python(folder: Path, script: str) -> Path:
    """Does the same whatever it is asked for."""
    program = folder / "python"
    (folder / "script.py").write_text(script)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/script.py "$@"\n')
    program.chmod(0o755)
    return program


def test_the_log_says_that_kernels_are_compiled(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(fake_python(site, "print('step 1/1: done')")))
    kernel_cache.prepare("service", ["module"])
    said = capsys.readouterr().err
    assert "compiling kernels, once" in said
    assert "step 1/1: done" in said
    kernel_cache.prepare("service", ["module"])
    assert capsys.readouterr().err == ""


def test_kernels_that_cannot_be_compiled_are_no_reason_not_to_start(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(fake_python(site, "raise SystemExit(1)")))
    kernel_cache.prepare("service", ["module"])
    assert "not all kernels could be compiled" in capsys.readouterr().err


def test_a_compiler_ends_with_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3x.warming", "--child-of", "1", "m3msg.kernels"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "parent process 1 has ended" in done.stderr
