"""What a configuration file of M3's aggregator or coordinator, or of ours, says about where its cluster is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m3cluster.kv import Etcd, StoreConfig
from m3cluster.kv.sections import StoreSection
from m3x.config.building import Builder
from m3x.config.document import DocumentError, Node, compose
from m3x.config.environment import Expansion
from m3x.config.places import Problem, lines_of

__all__ = ["FromFile", "read_file"]

_OURS = {
    "instance": (),
    "security": (),
    "kvClient": ("embedded", "zookeeper"),
    "clusterManagement": ("embedded", "zookeeper"),
}
"""Sections that M3 does not have, and keys of sections that it has: the beginnings."""


@dataclass(frozen=True, slots=True)
class FromFile:
    """What is empty is not said there."""

    kv: StoreConfig
    environment: str
    zone: str
    election_key: str
    flush_times_key: str
    ingest_topic: str
    output_topic: str
    ours: list[str]
    """Sections of it that M3's process refuses."""


def read_file(path: Path, environ: Mapping[str, str] | None = None) -> FromFile:
    """Reads what concerns the cluster, and nothing else of it. Raises ``ValueError``."""
    problems: list[Problem] = []
    try:
        node = compose(path.read_bytes(), str(path), [])
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise ValueError(f"--config {path}, line {error.line}: not valid YAML: {error}") from error
    node = None if node is None else Expansion(os.environ if environ is None else environ, problems).of(node)
    if node is None or not isinstance(node.value, dict):
        raise ValueError(f"--config {path} has no sections")
    name = "kvClient" if "kvClient" in node.value else "clusterManagement"
    section = node.value.get(name)
    if section is None:
        raise ValueError(f"--config {path} has neither kvClient nor clusterManagement: it does not say where the KV is")
    # Of the whole file only its cluster has to be free of problems.
    builder = Builder()
    found = builder.section(StoreSection, section, name)
    problems = [*builder.malformed, *builder.refused]
    if found is None or problems:
        raise ValueError("; ".join(lines_of(problems, [str(path)])))
    tree = node.plain()
    aggregator = _at(tree, "aggregator")
    client = _at(aggregator, "client") if name == "kvClient" else _at(tree, "downsample", "remoteAggregator", "client")
    ingest = _at(client, "m3msg", "producer", "writer")
    handlers = _at(aggregator, "flush").get("handlers") or []
    outputs = [_at(one, "dynamicBackend", "producer", "writer") for one in handlers if isinstance(one, dict)]
    named = (
        _at(aggregator, "placementManager", "kvConfig").get("environment"),
        _at(ingest, "topicServiceOverride").get("environment"),
    )
    return FromFile(
        kv=_only_read(found.store(None)),
        environment=str(next(filter(None, named), found.environment)),
        zone=found.zone,
        election_key=str(_at(aggregator, "electionManager").get("electionKeyFmt") or ""),
        flush_times_key=str(_at(aggregator, "flushTimesManager").get("flushTimesKeyFmt") or ""),
        ingest_topic=str(ingest.get("topicName") or ""),
        output_topic=next((str(one["topicName"]) for one in outputs if one.get("topicName")), ""),
        ours=list(_ours(node)),
    )


def _only_read(store: StoreConfig) -> StoreConfig:
    """The same without a cache: that is a process's own."""
    return replace(store, cache_dir="") if isinstance(store, Etcd) else store


def _at(tree: Any, *path: str) -> dict[str, Any]:
    """The mapping there; empty: there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _ours(node: Node) -> list[str]:
    found = []
    for name, keys in _OURS.items():
        section = node.value.get(name)
        if section is None:
            continue
        below = section.value if isinstance(section.value, dict) else {}
        found += [f"{name}.{key}" for key in keys if key in below] if keys else [name]
    return found
