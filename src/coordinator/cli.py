"""The command ``m3coordinator``: arguments, configuration errors, exit codes."""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coordinator.asking import Proofs, UnreadableError
from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.config.m3db import DynamicClusterConfig
from coordinator.config.workers import worker_count
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.explain import MetricTextError, explain, parse_metric, render
from coordinator.downsample.policies import storage_judge
from coordinator.downsample.routes import PATH
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.explain_rules import ExplainError, explain_rules
from coordinator.write.carbon_rules import CarbonRulesError, rules_in, unstored
from m3cluster.kv import KVError, check_store
from m3metrics.errors import MetricsError
from m3x import kernel_cache, log, process
from m3x.access import unusable
from m3x.config import ConfigError, Loaded
from m3x.diagnosis import stacks
from m3x.output import complain, say
from m3x.processes import Zygote
from m3x.tls import ClientTLSConfig, ServerTLSConfig, trouble_with
from m3x.version import VERSION

USAGE_ERROR = 2
"""Exit code for arguments or configuration that cannot be used."""
_WARMED = ("coordinator.warmup",)
_PROOFS = (
    ("ca-file", "PEM file with the authorities that are trusted (default: those of the system)"),
    ("cert-file", "PEM file with a client certificate"),
    ("key-file", "PEM file with its key"),
    ("token-file", "file whose first line is a bearer token (default: what M3CTL_TOKEN has)"),
)
"""Options of m3ctl, with its variables of the environment."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m3coordinator",
        description="Takes metrics (Prometheus remote write, carbon), sends them to the aggregators, stores what comes back, and "
        "answers queries and the admin API.",
    )
    parser.add_argument(
        "-f",
        dest="files",
        metavar="FILE",
        action="append",
        default=[],
        help="configuration file; repeat to override keys in later files",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="relative paths of the configuration are below it (default: ./data)",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="say whether the coordinator would start with the configuration, and end (2: it would not)",
    )
    parser.add_argument(
        "--explain",
        metavar="METRIC",
        help='say which rules of the file METRIC (name{label="value",…}) matches and why, what is sent for it, and end',
    )
    parser.add_argument(
        "--explain-rules",
        metavar="URL",
        nargs="?",
        const="",
        help="say what the rules of the file, or else those in KV, and the file's carbon rules would make of the series and paths "
        "that a running coordinator has met in the last minutes (default: the one at the file's listenAddress): what they add, "
        "what they remove, how many series each rule makes; and end",
    )
    parser.add_argument(
        "--rule-set",
        dest="rule_sets",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="with --explain-rules: a changed rule set as JSON, as GET /api/v1/rules/sets gives them, in the place of the one that "
        "its namespace has in KV; may be repeated",
    )
    for name, what in _PROOFS:
        default = os.environ.get(f"M3CTL_{name.upper().replace('-', '_')}") or ""
        parser.add_argument(f"--{name}", default=default, metavar="FILE", help=f"with --explain-rules: {what}")
    parser.add_argument(
        "--workers", type=_positive, default=0, metavar="N", help="processes that take writes (default: workers, CPUs)"
    )
    parser.add_argument(
        "--warm-up",
        action="store_true",
        help="compile what the first start would compile, and end; NUMBA_CACHE_DIR says where it is kept",
    )
    parser.add_argument("--version", action="version", version=f"m3coordinator {VERSION}")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of at least 1")
    return int(text)


def _obstacles(loaded: Loaded[CoordinatorConfig]) -> list[str]:
    """What would keep the service from starting with these files, one line each."""
    config = loaded.value
    found = [*_rules_problems(config), *_kv_problems(config), *_certificate_problems(config), *config.unsupported()]
    return [loaded.places.named(path, text) for path, text in found]


def _read_again(files: Sequence[str]) -> Loaded[CoordinatorConfig]:
    """Raises ``ConfigError`` for all that would keep the service from starting with these files."""
    loaded = load_coordinator(files)
    if obstacles := _obstacles(loaded):
        raise ConfigError(obstacles)
    return loaded


def _rules_problems(config: CoordinatorConfig) -> Iterator[tuple[str, str]]:
    try:
        rules_in(config)
    except CarbonRulesError as error:
        path, _, text = str(error).partition(": ")
        yield path, text


def _kv_problems(config: CoordinatorConfig) -> Iterator[tuple[str, str]]:
    """Where the etcd of our own, or that of M3DB's nodes, could not be used."""
    client = config.m3db_client
    cluster = client.config.synchronous if client is not None else None
    stores = [("clusterManagement", config.cluster_state.store(None))]
    if isinstance(cluster, DynamicClusterConfig) and cluster.service.etcd_clusters:
        stores.append(("clusters[0].client", cluster.service.client()))
    for path, store in stores:
        try:
            check_store(store)
        except KVError as error:
            yield path, str(error)


def _certificate_problems(config: CoordinatorConfig) -> Iterator[tuple[str, str]]:
    """Those of listeners, of the way to the aggregators, and of endpoints that cannot be loaded; tokens as well."""
    yield from unusable(config.security)
    sections: dict[str, ClientTLSConfig | ServerTLSConfig] = {}
    if config.takes_samples and config.carbon.ingester is not None:
        sections["carbon.ingester.tls"] = config.carbon.ingester.tls
    if config.takes_samples and config.ingest is not None:
        sections["ingest.m3msg.server.tls"] = config.ingest.m3msg.server.tls
    if config.remote_producer is not None:
        key = "downsample.remoteAggregator.client.m3msg.producer.writer.connection.tls"
        sections[key] = config.remote_producer.writer.connection.tls
    if config.remote_legacy is not None:
        sections["downsample.remoteAggregator.client.connection.tls"] = config.remote_legacy.tls
    for key, section in sections.items():
        if (trouble := trouble_with(section)) is not None:
            yield key, trouble
    remote = config.prometheus_remote_backend
    if config.backend != "prom-remote" or remote is None:
        return
    for index, endpoint in enumerate(remote.endpoints):
        if endpoint.tls is not None and (trouble := trouble_with(endpoint.tls)) is not None:
            yield f"prometheusRemoteBackend.endpoints[{index}].tls", f"endpoint {endpoint.name}: {trouble}"


def _complain(problems: Sequence[str]) -> int:
    for problem in problems:
        complain(problem)
    return USAGE_ERROR


def _explain(config: CoordinatorConfig, metric: str) -> int:
    """Prints what becomes of a metric by the rules of the file."""
    rules, now_ns = RulesInEffect(), time.time_ns()
    section = config.downsample
    if section is not None and section.rules is not None:
        rules.put(DEFAULT_NAMESPACE, rule_set_of(section.rules, now_ns))
    else:
        note = f"note: the file has no downsample.rules; for the rules in KV ask a running coordinator: GET {PATH}?metric=…"
        complain(note)
    try:
        document = explain(Downsampler.of(config, rules, now_ns), parse_metric(metric))
    except (MetricTextError, MetricsError) as error:
        return _complain([f"m3coordinator: {error}"])
    say(render(document))
    return 0


def _explain_rules(config: CoordinatorConfig, rule_sets: Sequence[Path], url: str, proofs: Proofs) -> int:
    """Prints what changed rules would make of the series of the coordinator at ``url``."""
    try:
        say(explain_rules(config, rule_sets, url, proofs))
    except ExplainError as error:
        return _complain([f"m3coordinator: {error}"])
    except UnreadableError as error:
        complain(f"m3coordinator: {error}")
        return 1
    return 0


def _warnings(loaded: Loaded[CoordinatorConfig]) -> list[str]:
    """What the file asks for in vain, one line each."""
    config = loaded.value
    judge = storage_judge(config)
    rules, section = RulesInEffect(judge), config.downsample
    if section is not None and section.rules is not None:
        rules.put(DEFAULT_NAMESPACE, rule_set_of(section.rules, 0), loaded.places)
    return [*config.in_vain, *rules.warnings(), *unstored(rules_in(config), judge, loaded.places)]


def _checked(loaded: Loaded[CoordinatorConfig], files: Sequence[str]) -> Iterator[str]:
    """What a check says of files that the service would start with."""
    config = loaded.value
    yield f"{', '.join(files)}: the configuration is valid"
    obstacle = Downsampler.of(config, RulesInEffect(), 0).obstacle
    if not config.knows_namespaces:
        obstacle = config.no_aggregators
        yield "note: namespaces are those of M3DB's registry; what rules ask for is compared with them while it runs"
    if obstacle is not None and config.takes_samples:
        raw = any(not namespace.aggregated for namespace in config.namespaces) or not config.knows_namespaces
        fate = "are stored as they come, and not aggregated" if raw else "will be answered with 503"
        yield f"warning: remote writes {fate}: {obstacle}"
    for warning in _warnings(loaded):
        yield f"warning: {warning}"
    if loaded.meaningless:
        yield f"without effect here: {', '.join(loaded.meaningless)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a clean end, 1 if the service failed, 2 for unusable arguments or configuration."""
    options = _parser().parse_args(arguments)
    if options.warm_up:
        return kernel_cache.warm_up("m3coordinator", _WARMED, say)
    try:
        loaded = load_coordinator(options.files)
    except ConfigError as error:
        return _complain(error.problems)
    if options.explain is not None:
        return _explain(loaded.value, options.explain)
    if options.rule_sets and options.explain_rules is None:
        return _complain(["m3coordinator: --rule-set is for --explain-rules"])
    if options.explain_rules is not None:
        proofs = Proofs(options.ca_file, options.cert_file, options.key_file, options.token_file)
        return _explain_rules(loaded.value, options.rule_sets, options.explain_rules, proofs)
    obstacles = _obstacles(loaded)
    if obstacles:
        return _complain(obstacles)
    if options.check_config:
        say("".join(f"{line}\n" for line in _checked(loaded, options.files)))
        return 0
    stacks.register_service()
    # Until it is heard; one that is lost so early would have asked for what is read now.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fields: dict[str, Any] = dict(loaded.value.logging.fields)
    log.configure(loaded.value.logging.level, **fields)
    kernel_cache.prepare("m3coordinator", _WARMED)
    process.raise_open_files()
    workers = worker_count(loaded.value, options.workers)
    zygote = None
    if workers > 1:
        zygote = Zygote("coordinator.preload")
        # Before the first thread and the first socket.
        zygote.fork()
    # Imported late: --help and --check-config need no compiled loops.
    from coordinator.service import ServiceError, serve  # noqa: PLC0415

    logger = log.logger("coordinator")
    if loaded.meaningless:
        logger.debug("keys without effect", keys=loaded.meaningless)
    for warning in loaded.value.in_vain:
        logger.warning(warning)
    try:
        made = serve(
            loaded.value, options.data_dir, loaded.places, zygote, workers, read=lambda: _read_again(options.files)
        )
        asyncio.run(made)
    except ServiceError as error:
        complain(f"m3coordinator: {error}")
        return 1
    return 0
