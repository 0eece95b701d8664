"""The Dockerfile and the compose file, as far as that goes without a container engine."""

import fnmatch
import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lab.cluster import coordinator_overlay, overlaid
from lab.http import get_json
from lab.ports import free_ports
from lab.processes import Process, module_command

from aggregator.cli import _parser as aggregator_parser
from aggregator.cli import main as m3aggregator
from coordinator.cli import _parser as coordinator_parser
from coordinator.cli import main as m3coordinator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SERVICES = {"m3aggregator": aggregator_parser, "m3coordinator": coordinator_parser}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())


def instructions() -> Iterator[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments."""
    for line in (DEPLOY / "docker/Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for name, rest in instructions():
        if name == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [])
        current.append((name, rest))
    return found


def ignored(path: str) -> bool:
    """What .dockerignore says of a file of the repository; later lines win."""
    result = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if any(
            fnmatch.fnmatch(part, pattern) for part in (path, path.split("/", maxsplit=1)[0], path.rsplit("/", 1)[-1])
        ):
            result = not line.startswith("!")
    return result


def test_all_that_is_copied_is_there_and_is_sent() -> None:
    copied = 0
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert not ignored(source), source
                copied += 1
    assert copied > 5
    assert ignored("tests")
    assert ignored(".git")


def test_stages_are_made_of_stages_before_them() -> None:
    known: list[str] = []
    for stage, lines in stages().items():
        base = lines[0][1].split(" AS ")[0]
        assert base in known or base == "python:${PYTHON}"
        for name, rest in lines:
            if name == "COPY" and (found := re.match(r"--from=(\w+)", rest)):
                assert found[1] in known
        known.append(stage)
    assert known[-2:] == ["m3coordinator", "m3aggregator"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_its_service_as_nobody_with_the_file_of_m3s_image(service: str) -> None:
    found = dict(stages()[service])
    entry, arguments = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    assert entry[0] == f"/opt/m3/bin/{service}"
    assert arguments == ["-f", f"/etc/{service}/{service}.yml"]
    SERVICES[service]().parse_args([*entry[1:], *arguments])
    assert found["COPY"].split()[1] == arguments[1]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", dict(stages()["runtime"])["USER"])


def test_what_is_compiled_is_for_the_processor_that_it_runs_as() -> None:
    """The same variables when it is built and when it runs; else a start would compile again."""
    built, run = (
        re.findall(r"NUMBA_\w+=\S+", next(rest for name, rest in stages()[stage] if name == "ENV"))
        for stage in ("build", "runtime")
    )
    assert built == run
    assert [rest for name, rest in stages()["build"] if rest.endswith("--warm-up")] == [
        f"/opt/m3/bin/{service} --warm-up" for service in SERVICES
    ]


def test_what_is_mounted_is_there() -> None:
    mounted = set()
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                mounted.add(source)
                assert (DEPLOY / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
    assert len(mounted) > 5


def test_what_is_built_and_waited_for_is_there() -> None:
    targets = set()
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", [])) <= COMPOSE["services"].keys()
        if build := service.get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
            targets.add(build["target"])
    assert targets == {"m3aggregator", "m3coordinator"}


def test_mounted_configurations_are_valid(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3AGGREGATOR_HOST_ID", "m3aggregator01:6000")
    assert m3aggregator(["-f", str(DEPLOY / "compose/m3aggregator.yml"), "--check-config"]) == 0
    assert m3coordinator(["-f", str(DEPLOY / "compose/m3coordinator.yml"), "--check-config"]) == 0
    capsys.readouterr()
    for file in (DEPLOY / "compose").glob("*.yml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_prometheus_takes_its_file(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    config = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())
    for name in config["rule_files"]:
        assert (DEPLOY / "prometheus" / Path(name).name).is_file()
    config["rule_files"] = []
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run([promtool, "check", "config", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    targets = {target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]}
    assert {target.split(":")[0] for target in targets} <= COMPOSE["services"].keys()


@pytest.mark.integration
def test_the_init_job_makes_placements_and_topics_once(tmp_path: Path) -> None:
    ports = free_ports(4)
    kv = {"embedded": {"path": str(tmp_path / "kv.sqlite")}}
    overlay = coordinator_overlay((ports[0], ports[1], ports[2], ports[3]), kv, tmp_path)
    files = overlaid(DEPLOY / "compose/m3coordinator.yml", overlay, tmp_path / "overlay.yml")
    base = f"http://127.0.0.1:{ports[0]}"
    command = module_command("coordinator", *files, "--workers", "1", "--data-dir", str(tmp_path))
    process = Process("coordinator", command, tmp_path / "log")
    try:
        process.wait_for_http(f"{base}/-/healthy", 120)
        env = {**COMPOSE["services"]["init"]["environment"], "COORDINATOR": base, "PATH": "/usr/bin:/bin"}
        said = [
            subprocess.run(
                ["sh", DEPLOY / "compose/init.sh"], env=env, capture_output=True, text=True, check=True, timeout=120
            ).stdout
            for _ in range(2)
        ]
        assert said[0].count("made the") == 4
        assert said[1] == ""
        placement = get_json(f"{base}/api/v1/services/m3aggregator/placement")["placement"]
        assert sorted(placement["instances"]) == ["m3aggregator01:6000", "m3aggregator02:6000"]
        assert {len(one["shards"]) for one in placement["instances"].values()} == {64}
    finally:
        process.stop()


def test_scripts_can_be_run() -> None:
    assert (DEPLOY / "compose/init.sh").stat().st_mode & stat.S_IXUSR
