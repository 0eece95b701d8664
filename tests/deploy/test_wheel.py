"""The distribution: what is built, installed, and started from an environment that nobody may write into."""

import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.cluster import aggregator_overlay, coordinator_overlay, overlaid
from lab.ports import free_ports
from lab.processes import Process
from tests.deploy.installed import Installed, build, copy_of_sources, freeze, install, run, take_kernels, thaw

pytestmark = pytest.mark.integration

COMMANDS = ("m3aggregator", "m3coordinator", "m3ctl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def sources(folder: Path) -> Path:
    return copy_of_sources(folder / "sources")


@pytest.fixture(scope="module")
def wheel(sources: Path, folder: Path) -> Path:
    return build("build_wheel", sources, folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, folder: Path) -> Iterator[Installed]:
    """Read-only; its kernels are compiled in the cache of a home."""
    made = install(wheel, folder)
    freeze(made)
    take_kernels(made, made.home / ".cache")
    yield made
    thaw(made)


def test_an_sdist_has_all_that_its_wheel_is_made_of(sources: Path, wheel: Path, folder: Path) -> None:
    archive = build("build_sdist", sources, folder / "dist")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    again = build("build_wheel", unpacked, folder / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist() if ".dist-info/" not in item.filename} == {
            item.filename: item.CRC for item in other.infolist() if ".dist-info/" not in item.filename
        }


def test_the_wheel_holds_the_services_and_nothing_of_the_tests(wheel: Path, sources: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name and ".data/" not in name}
    kept = {
        str(path.relative_to(sources / "src"))
        for path in (sources / "src").rglob("*")
        if path.is_file() and ".egg-info" not in str(path)
    }
    assert names == kept


def test_what_it_depends_on_is_there(installed: Installed) -> None:
    assert "No broken requirements" in run(installed.prefix / "bin/pip", "check", env=installed.env)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_say_what_they_are(installed: Installed, name: str) -> None:
    assert "usage" in run(*installed.command(name, "--help"), env=installed.env)
    if name != "m3ctl":
        assert run(*installed.command(name, "--version"), env=installed.env).startswith(f"{name} ")


def test_the_environment_cannot_be_written(installed: Installed) -> None:
    touch = installed.command("python", "-c", f"open({str(installed.packages / 'new')!r}, 'w')")
    done = subprocess.run(touch, capture_output=True, text=True, check=False, timeout=60)
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("service", ["m3aggregator", "m3coordinator"])
def test_a_service_starts_with_the_file_that_comes_with_it(installed: Installed, service: str, tmp_path: Path) -> None:
    """Kernels are prepared once, with a line for each step; the second start finds them."""
    kv = {"embedded": {"path": str(tmp_path / "kv.sqlite")}}
    if service == "m3aggregator":
        takes, listen, metrics = free_ports(3)
        overlay = aggregator_overlay(f"127.0.0.1:{takes}", f"127.0.0.1:{listen}", f"127.0.0.1:{metrics}", kv)
        page = "/health"
    else:
        ports = free_ports(4)
        listen, page = ports[0], "/routes"
        overlay = coordinator_overlay((ports[0], ports[1], ports[2], ports[3]), kv, tmp_path)
    example = installed.prefix / "share/m3-aggregation-tier" / f"{service}.yml"
    files = overlaid(example, overlay, tmp_path / "overlay.yml")
    command = installed.command(service, *files, "--workers", "1", "--data-dir", tmp_path)
    env = {**installed.env, "M3AGGREGATOR_HOST_ID": "here"}
    told = []
    for start in ("first", "second"):
        process = Process(service, command, tmp_path / f"{start}.log", env=env, cwd=tmp_path)
        try:
            process.wait_for_http(f"http://127.0.0.1:{listen}{page}", 120)
        finally:
            code = process.stop()
        assert code == 0, process.tail()
        told.append(process.log_file.read_text())
    assert "compiling kernels, once" in told[0]
    assert "done in" in told[0]
    assert "compiling" not in told[1]
    assert (installed.home / ".cache" / installed.cache_name()).is_dir()


@pytest.mark.slow
def test_kernels_are_compiled_at_warm_up(wheel: Path, tmp_path: Path) -> None:
    """From nothing; in the environment itself, which can be written here."""
    made = install(wheel, tmp_path)
    for service in ("m3aggregator", "m3coordinator"):
        said = run(made.prefix / "bin" / service, "--warm-up", env=made.env, timeout_s=3600)
        assert "compiling kernels into" in said
        assert "done in" in said
        assert "the kernels are compiled" in run(made.prefix / "bin" / service, "--warm-up", env=made.env)
    folder = made.prefix / "var/cache" / made.cache_name()
    compiled = list(folder.rglob("*.nbc"))
    assert len(compiled) > 200
    freeze(made)
    try:
        # Who may not write there takes them over.
        said = run(*made.command("m3aggregator", "--warm-up"), env=made.env)
        assert "the kernels are compiled" in said
        elsewhere = made.home / ".cache" / folder.name
        assert {path.name for path in elsewhere.rglob("*.nbc")} == {path.name for path in compiled}
    finally:
        thaw(made)
