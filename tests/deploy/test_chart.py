"""The chart: its values and their schema, and the rendered samples beside it, whose configurations our services take."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aggregator.cli import main as m3aggregator
from coordinator.cli import main as m3coordinator

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/m3-aggregation"
SAMPLES = ROOT / "deploy/helm/samples"
NAMES = sorted(path.name.removesuffix(".values.yaml") for path in SAMPLES.glob("*.values.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SERVICES = {"m3aggregator": m3aggregator, "m3coordinator": m3coordinator}


def merged(below: Any, above: Any) -> Any:
    """As helm lays values over those of the chart."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}
    return above


def values(name: str) -> Any:
    chart = yaml.safe_load((CHART / "values.yaml").read_text())
    return merged(chart, yaml.safe_load((SAMPLES / f"{name}.values.yaml").read_text()))


def rendered(name: str) -> dict[tuple[str, str], Any]:
    """Kind and name → resource."""
    documents = [one for one in yaml.safe_load_all((SAMPLES / f"{name}.rendered.yaml").read_text()) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert len(found) == len(documents)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_values_go_with_the_schema(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values(name), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregator": {"replicas": 3}},
        {"aggregator": {"replica": 4}},
        {"coordinator": {"replicas": 2}},
        {"etcd": {"endpoints": []}},
        {"etcd": {"endpoints": ["etcd"]}},
        {"shards": 0},
        {"aggregator": {"terminationGracePeriodSeconds": 5}},
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(wrong: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(values("default"), wrong), SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_all_kinds(name: str) -> None:
    found = rendered(name)
    kinds = [kind for kind, _ in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "ConfigMap": 3, "Job": 1, "PodDisruptionBudget": 2, "Service": 3, "StatefulSet": 2,
    }  # fmt: skip
    for (kind, _), resource in found.items():
        if kind == "PodDisruptionBudget":
            assert resource["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", NAMES)
def test_a_pod_is_wired(name: str, service: str) -> None:
    found, wanted = rendered(name), values(name)[service.removeprefix("m3")]
    spec = found["StatefulSet", f"m3-{service}"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == wanted["replicas"]
    assert spec["serviceName"] == f"m3-{service}"
    assert found["Service", f"m3-{service}"]["spec"]["clusterIP"] == "None"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["terminationGracePeriodSeconds"] == wanted["terminationGracePeriodSeconds"]
    if service == "m3coordinator":
        assert container["args"][-2:] == ["--workers", str(wanted["workers"])]
    else:  # in the file alone: what the command line says no reload changes
        overlay = yaml.safe_load(found["ConfigMap", "m3-m3aggregator"]["data"]["overlay.yml"])
        assert overlay["instance"] == {**wanted["config"].get("instance", {}), "workers": wanted["workers"]}
        assert "--workers" not in container["args"]
    volumes = {one["name"] for one in pod["volumes"]} | {
        one["metadata"]["name"] for one in spec["volumeClaimTemplates"]
    }
    assert {one["name"] for one in container["volumeMounts"]} <= volumes
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {one["port"] for one in paths.values()} <= ports.keys()
    assert (paths["liveness"]["path"], paths["readiness"]["path"]) == ("/-/healthy", "/-/ready")
    labels = spec["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = found[kind, f"m3-{service}"]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", NAMES)
def test_configurations_are_valid(
    name: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("M3AGGREGATOR_HOST_ID", "m3-m3aggregator-0")
    data = rendered(name)["ConfigMap", f"m3-{service}"]["data"]
    arguments = []
    for file, text in data.items():
        (tmp_path / file).write_text(text)
    for file in (f"{service}.yml", "overlay.yml"):
        arguments += ["-f", str(tmp_path / file)]
    assert SERVICES[service]([*arguments, "--check-config"]) == 0, capsys.readouterr().err
    assert "the configuration is valid" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_the_job_names_the_pods(name: str) -> None:
    found = rendered(name)
    (job,) = (resource for (kind, _), resource in found.items() if kind == "Job")
    env = {one["name"]: one["value"] for one in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    expected = [f"m3-m3aggregator-{n}" for n in range(values(name)["aggregator"]["replicas"])]
    assert env["AGGREGATORS"].split() == [f"{one}={one}.m3-m3aggregator:6000" for one in expected]
    # A service without ready pods answers nobody, and the coordinator is not ready before the job has run.
    assert env["COORDINATOR"] == "http://m3-m3coordinator-0.m3-m3coordinator:7201"
    assert found["Service", "m3-m3coordinator"]["spec"]["publishNotReadyAddresses"]
    script = found["ConfigMap", "m3-m3init"]["data"]["init.sh"]
    assert script.strip() == (ROOT / "deploy/compose/init.sh").read_text().strip()


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_what_helm_makes_of_the_chart(name: str) -> None:
    if (helm := shutil.which("helm")) is None:
        pytest.skip("helm is not installed")
    subprocess.run([helm, "lint", "--strict", CHART], check=True, capture_output=True, timeout=60)
    made = subprocess.run(
        [helm, "template", "m3", CHART, "-f", SAMPLES / f"{name}.values.yaml"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert made.stdout == (SAMPLES / f"{name}.rendered.yaml").read_text()
