"""The command ``m3ctl``: arguments, output, exit codes."""

import argparse
import math
import os
import ssl
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import shtab

from m3cluster.kv import Embedded, Etcd, EtcdTLS, StoreConfig, ZooKeeper
from m3ctl.client import Caller, CtlError, base_url
from m3ctl.cluster import AGGREGATOR, COORDINATOR, Cluster, Settings
from m3ctl.doctor import doctor
from m3ctl.flush_times import show_flush_times
from m3ctl.leaders import show_leaders
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
from m3x.version import VERSION

__all__ = ["main"]

_USAGE_ERROR = 2
_CLEAR = "\x1b[H\x1b[2J"
_EPILOG = """exit codes: 0 all is well, 1 a problem was found or something did not answer, 2 wrong arguments.
M3CTL_COORDINATOR, M3CTL_ENV and M3CTL_ZONE in the environment take the place of --coordinator, --env and --zone,
M3CTL_CA_FILE, M3CTL_CERT_FILE, M3CTL_KEY_FILE and M3CTL_TOKEN_FILE that of the options so called; M3CTL_TOKEN is a token itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "completion":
        say(f"{shtab.complete(parser, shell=options.shell)}\n")
        return 0
    try:
        settings = _settings(options)
    except ValueError as error:
        complain(f"m3ctl {options.command}: {error}")
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
        if options.json:
            say(f"{Report(problems=[str(error)]).json()}\n")
        else:
            complain(f"m3ctl {options.command}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"{report.json() if options.json else report.text()}\n")
    return 1 if report.problems else 0


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
        case _:
            return doctor(cluster, topics=(options.ingest_topic, options.output_topic), wait_s=options.wait)


# --- arguments


def _settings(options: argparse.Namespace) -> Settings:
    """Raises ``ValueError`` for what cannot be."""
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
        kv=_kv(options),
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


def _parser() -> argparse.ArgumentParser:
    shared = _shared()
    parser = argparse.ArgumentParser(
        prog="m3ctl",
        description="Looks at a cluster of M3 aggregators, ours or Go's, and hands leadership over.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"m3ctl {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, parents=[shared])
        return made

    placement = command("placement", "who owns which shards")
    placement.add_argument("--service", choices=(AGGREGATOR, COORDINATOR, "m3db"), default=AGGREGATOR)
    topic = command("topic", "topics and their consumers")
    topic.add_argument("topics", type=_word, nargs="*", metavar="TOPIC", help=f"default: {' '.join(TOPICS)}")
    shards = command("shards", "the shards of every instance: state, worker, entries, windows, last flush")
    shards.add_argument("--each", action="store_true", help="one row per shard; else shards that are alike share a row")
    shards.add_argument("--instance", default="", metavar="ID", help="only of this instance")
    shards.add_argument("--shard", type=int, metavar="N", help="only this shard")
    command("leaders", "who leads each shard set")
    handover = command("resign", "hands the leadership of a shard set to another instance")
    whom = handover.add_mutually_exclusive_group(required=True)
    whom.add_argument("instance", nargs="?", default="", metavar="ID", help="the instance that is to resign")
    whom.add_argument("--shard-set", type=int, metavar="N", help="or: whoever leads this shard set")
    handover.add_argument(
        "--resign-timeout", type=_seconds, default=65.0, metavar="S",
        help="how long to wait for the handover (default 65: M3's resignTimeout and a little)",
    )  # fmt: skip
    command("flush-times", "up to where every list is flushed for good")
    live = command("top", "what goes from where to where in every service: rates, queues, troubles; live")
    live.add_argument("--once", action="store_true", help="one look (as with --json); else again and again")
    live.add_argument("--every", type=_seconds, default=5.0, metavar="S", help="default %(default)g")
    follow = command("tail", "aggregated values as they come out")
    follow.add_argument("selector", metavar="SELECTOR", help="such as 'requests_total{job=\"api\"}'")
    follow.add_argument(
        "--every", type=_seconds, default=2.0, metavar="S", help="between two questions (default %(default)g)"
    )
    follow.add_argument(
        "--since", type=_seconds, default=60.0, metavar="S", help="begins so long ago (default %(default)g)"
    )
    shells = commands.add_parser(
        "completion", help="completion for a shell", description="Prints the completion for a shell."
    )
    shells.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    check = command("doctor", "checks the whole set-up and says how to mend what is wrong")
    check.add_argument("--ingest-topic", type=_word, default=TOPICS[0], metavar="TOPIC", help=f"default: {TOPICS[0]}")
    check.add_argument("--output-topic", type=_word, default=TOPICS[1], metavar="TOPIC", help=f"default: {TOPICS[1]}")
    check.add_argument(
        "--wait",
        type=_seconds,
        default=25.0,
        metavar="S",
        help="how long to watch the flush times advance (default 25)",
    )
    return parser


def _shared() -> argparse.ArgumentParser:
    """What every command takes."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("where the cluster is")
    environ = os.environ
    default = environ.get("M3CTL_COORDINATOR") or "http://127.0.0.1:7201"
    group.add_argument("--coordinator", default=default, metavar="URL", help="any coordinator (default %(default)s)")
    group.add_argument(
        "--aggregator", action="append", default=[], metavar="[ID=]URL",
        help="HTTP of an aggregator, repeatable (default: hosts of the placement, with the port of its debugPort or --aggregator-port)",
    )  # fmt: skip
    group.add_argument("--aggregator-port", type=_port, default=6001, metavar="N", help="default %(default)s")
    group.add_argument(
        "--env", type=_word, default=environ.get("M3CTL_ENV") or "default_env", metavar="ENV",
        help="environment of placements and topics (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--zone",
        type=_word,
        default=environ.get("M3CTL_ZONE") or "embedded",
        metavar="ZONE",
        help="default %(default)s",
    )
    group.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="S", help="of every request (default %(default)g)"
    )
    group.add_argument("--json", action="store_true", help="print one JSON object")
    _proofs(shared)
    _direct(shared)
    return shared


def _proofs(shared: argparse.ArgumentParser) -> None:
    """What a cluster with TLS and tokens takes."""
    group = shared.add_argument_group("TLS and tokens (docs/security.md)")
    for name, what in (
        ("ca-file", "PEM file: authorities that are trusted (default: those of the system)"),
        ("cert-file", "PEM file: client certificate"),
        ("key-file", "PEM file: its key"),
        ("token-file", "file whose first line is a bearer token"),
    ):
        default = os.environ.get(f"M3CTL_{name.upper().replace('-', '_')}") or ""
        group.add_argument(f"--{name}", default=default, metavar="FILE", help=what)


def _direct(shared: argparse.ArgumentParser) -> None:
    """Where the KV is, for what HTTP does not offer."""
    group = shared.add_argument_group(
        "the KV, read directly: exact flush times, candidates of elections; needed for flush times of Go's aggregators"
    )
    group.add_argument("--etcd", action="append", default=[], metavar="HOST:PORT", help="etcd endpoint, repeatable")
    group.add_argument(
        "--zookeeper", action="append", default=[], metavar="HOST:PORT", help="ZooKeeper server, repeatable"
    )
    group.add_argument("--zookeeper-chroot", default="/m3", metavar="PATH", help="default %(default)s")
    group.add_argument("--embedded", type=Path, metavar="FILE", help="file of the embedded KV")
    for name, what in (("ca", "certificate authority"), ("cert", "client certificate"), ("key", "client key")):
        group.add_argument(f"--etcd-{name}", default="", metavar="FILE", help=f"PEM file: {what}")
        group.add_argument(f"--zookeeper-{name}", default="", metavar="FILE", help=f"PEM file: {what}")
    group.add_argument(
        "--election-key", default="shardset/%d/lock", metavar="FORMAT", help="electionKeyFmt of the aggregators"
    )
    group.add_argument(
        "--flush-times-key", default="shardset/%d/flush", metavar="FORMAT", help="flushTimesKeyFmt of the aggregators"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0")
    return value


def _word(text: str) -> str:
    """What goes into a header of a request."""
    if not (text.strip() and text.isprintable() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is empty or has characters that M3's headers cannot carry")
    return text


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return value
