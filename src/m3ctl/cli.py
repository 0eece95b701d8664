"""The command ``m3ctl``: arguments, output, exit codes."""

import argparse
import json
import os
import ssl
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import shtab

from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import Embedded, Etcd, EtcdTLS, StoreConfig, ZooKeeper
from m3ctl.arguments import make_parser
from m3ctl.bench import bench
from m3ctl.bench.load import Load
from m3ctl.client import Caller, CtlError, base_url
from m3ctl.cluster import Cluster, Settings
from m3ctl.doctor import doctor
from m3ctl.flush_times import show_flush_times
from m3ctl.leaders import show_leaders
from m3ctl.migrate import migrate
from m3ctl.migrate.file import FromFile, read_file
from m3ctl.migrate.stored import StoredCluster
from m3ctl.placement import show_placement
from m3ctl.report import Report
from m3ctl.resign import resign
from m3ctl.shards import show_shards
from m3ctl.tail import tail
from m3ctl.top import show_top
from m3ctl.topic import TOPICS, show_topics
from m3x import log
from m3x.output import complain, say
from m3x.tls import ClientTLS, ClientTLSConfig, TLSError

__all__ = ["main"]

_USAGE_ERROR = 2
_CLEAR = "\x1b[H\x1b[2J"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "completion":
        script = shtab.complete(parser, shell=options.shell)
        say(f"{Report({'shell': options.shell, 'script': script}).json() if options.json else script}\n")
        return 0
    try:
        settings = _settings(options)
    except ValueError as error:
        _refuse(options, str(error))
        return _USAGE_ERROR
    # Warnings of the KV clients would repeat what the command says itself.
    log.configure("error")
    cluster = Cluster(settings)
    try:
        if options.command == "tail":
            tail(
                cluster, options.selector, every_s=options.every, since_s=round(options.since), as_json=options.json, say=say
            )  # fmt: skip
        while options.command == "top" and not (options.once or options.json):
            text = show_top(cluster).text()
            # On a terminal one look takes the place of the one before.
            say(f"{_CLEAR if sys.stdout.isatty() else ''}{text}\n\n")
            time.sleep(options.every)
        report = _run(options, cluster)
    except CtlError as error:
        _refuse(options, str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"{report.json() if options.json else report.text()}\n")
    return 1 if report.problems else 0


def _refuse(options: argparse.Namespace, text: str) -> None:
    """Says why nothing can be shown, in the form that was asked for."""
    if not options.json:
        complain(f"m3ctl {options.command}: {text}")
        return
    # Of ``tail`` each line is an object.
    whole = Report(problems=[text]).json()
    say(f"{json.dumps(json.loads(whole)) if options.command == 'tail' else whole}\n")


def _run(options: argparse.Namespace, cluster: Cluster) -> Report:
    match options.command:
        case "placement":
            return show_placement(cluster, options.service)
        case "topic":
            return show_topics(cluster, options.topics or TOPICS)
        case "shards":
            return show_shards(cluster, each=options.each, instance_id=options.instance, shard=options.shard)
        case "leaders":
            return show_leaders(cluster)
        case "resign":
            return resign(cluster, options.instance, options.shard_set or 0, options.resign_timeout)
        case "flush-times":
            return show_flush_times(cluster)
        case "top":
            return show_top(cluster)
        case "bench":
            return _bench(options, cluster)
        case "migrate":
            return _migrate(options, cluster.settings)
        case _:
            return doctor(cluster, topics=(options.ingest_topic, options.output_topic), wait_s=options.wait)


def _bench(options: argparse.Namespace, cluster: Cluster) -> Report:
    load = Load(options.prefix, options.series, options.rate, options.seconds)
    return bench(
        StoredCluster(cluster.settings) if cluster.settings.kv is not None else cluster,
        options.service,
        load,
        policy=options.policy,
        instance=options.instance,
        check=options.check,
        wait_s=options.wait,
        agreed=options.yes,
        warn=complain,
    )


def _migrate(options: argparse.Namespace, settings: Settings) -> Report:
    file = options.from_file
    return migrate(
        StoredCluster(settings),
        topics=(options.ingest_topic, options.output_topic),
        back=options.back,
        wait_s=options.wait,
        ours_in_file=() if file is None else file.ours,
    )


# --- arguments


def _take_file(options: argparse.Namespace) -> None:
    """Where the options say nothing of the cluster, its file does. Raises ``ValueError``."""
    options.from_file = None
    if not options.config:
        return
    file: FromFile = read_file(options.config)
    options.from_file = file
    for name in ("election_key", "flush_times_key", "ingest_topic", "output_topic"):
        if getattr(file, name):
            setattr(options, name, getattr(file, name))
    # Not what the environment or the command line names.
    if options.env == DEFAULT_ENVIRONMENT:
        options.env = file.environment
    if options.zone == DEFAULT_ZONE:
        options.zone = file.zone


def _settings(options: argparse.Namespace) -> Settings:
    """Raises ``ValueError`` for what cannot be."""
    store = _kv(options)
    if options.command == "migrate":
        _take_file(options)
        store = store or (options.from_file.kv if options.from_file is not None else None)
        if store is None:
            raise ValueError("name the KV of the cluster: --etcd HOST:PORT, or --config FILE, a file of its processes")
    if options.command == "bench" and options.service == "coordinator" and options.instance:
        raise ValueError("--instance names an aggregator; which coordinator it is says --coordinator")
    if options.command == "bench" and options.service == "aggregator" and options.check:
        raise ValueError("--check asks a coordinator's store: bench coordinator")
    # Where one of them speaks TLS the others do.
    secure = bool(options.ca_file or options.cert_file) or options.coordinator.startswith("https:")
    scheme = "https" if secure else "http"
    coordinator = base_url(options.coordinator, scheme)
    return Settings(
        coordinator=coordinator,
        aggregators=tuple(_aggregator(text, scheme) for text in options.aggregator),
        aggregator_scheme=urllib.parse.urlsplit(coordinator).scheme,
        caller=Caller(_context(options), _token(options)),
        environment=options.env,
        zone=options.zone,
        timeout_s=options.timeout,
        aggregator_port=options.aggregator_port,
        kv=store,
        election_key=options.election_key,
        flush_times_key=options.flush_times_key,
    )


def _context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Of TLS; None: the system's. Raises ``ValueError``."""
    if not (options.ca_file or options.cert_file or options.key_file):
        return None
    config = ClientTLSConfig(ca_file=options.ca_file, cert_file=options.cert_file, key_file=options.key_file)
    try:
        return ClientTLS(config).context()
    except TLSError as error:
        raise ValueError(str(error)) from error


def _token(options: argparse.Namespace) -> str:
    """Empty: none. Raises ``ValueError``."""
    if not options.token_file:
        return os.environ.get("M3CTL_TOKEN", "").strip()
    try:
        lines = Path(options.token_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"--token-file {options.token_file} cannot be read: {reason}") from None
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise ValueError(f"--token-file {options.token_file} has no token")
    return tokens[0]


def _aggregator(text: str, scheme: str) -> tuple[str, str]:
    """``URL`` or ``ID=URL`` as (id, URL)."""
    name, equals, url = text.rpartition("=")
    if equals and not name:
        raise ValueError(f"--aggregator {text!r}: the instance id before = is missing")
    return name, base_url(url, scheme)


def _kv(options: argparse.Namespace) -> StoreConfig | None:
    if sum(map(bool, (options.embedded, options.etcd, options.zookeeper))) > 1:
        raise ValueError("--etcd, --zookeeper and --embedded exclude each other: a cluster has one KV")
    if options.embedded is not None:
        return Embedded(options.embedded)
    if options.zookeeper:
        return ZooKeeper(
            _listed(options.zookeeper), connect_timeout_s=options.timeout, request_timeout_s=options.timeout,
            chroot=options.zookeeper_chroot, tls=_zookeeper_tls(options),
        )  # fmt: skip
    if not options.etcd:
        return None
    tls = None
    if options.etcd_ca or options.etcd_cert or options.etcd_key:
        tls = EtcdTLS(options.etcd_ca, options.etcd_cert, options.etcd_key)
    return Etcd(_listed(options.etcd), tls=tls, dial_timeout_s=options.timeout, request_timeout_s=options.timeout)


def _zookeeper_tls(options: argparse.Namespace) -> ClientTLSConfig | None:
    """Raises ``ValueError``."""
    files = (options.zookeeper_ca, options.zookeeper_cert, options.zookeeper_key)
    return ClientTLSConfig(ca_file=files[0], cert_file=files[1], key_file=files[2]) if any(files) else None


def _listed(texts: Sequence[str]) -> tuple[str, ...]:
    """Options that may be repeated and may list several, with commas."""
    return tuple(part.strip() for text in texts for part in text.split(","))
