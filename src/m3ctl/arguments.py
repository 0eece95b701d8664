"""The arguments of ``m3ctl``: one parser, with a sub-parser for each command."""

import argparse
import math
import os
import re
from pathlib import Path

from m3ctl.cluster import AGGREGATOR, COORDINATOR
from m3ctl.topic import TOPICS
from m3metrics.policy import StoragePolicy
from m3x.version import VERSION

__all__ = ["make_parser"]

_EPILOG = """exit codes: 0 all is well, 1 a problem was found or something did not answer, 2 wrong arguments.
M3CTL_COORDINATOR, M3CTL_ENV and M3CTL_ZONE in the environment take the place of --coordinator, --env and --zone,
M3CTL_CA_FILE, M3CTL_CERT_FILE, M3CTL_KEY_FILE and M3CTL_TOKEN_FILE that of the options so called; M3CTL_TOKEN is a token itself."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``command`` is the command's name."""
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
        "--resign-timeout", type=_above_zero, default=65.0, metavar="S",
        help="how long to wait for the handover (default 65: M3's resignTimeout and a little)",
    )  # fmt: skip
    command("flush-times", "up to where every list is flushed for good")
    live = command("top", "what goes from where to where in every service: rates, queues, troubles; live")
    live.add_argument("--once", action="store_true", help="one look (as with --json); else again and again")
    live.add_argument("--every", type=_above_zero, default=5.0, metavar="S", help="default %(default)g")
    follow = command("tail", "aggregated values as they come out")
    follow.add_argument("selector", metavar="SELECTOR", help="such as 'requests_total{job=\"api\"}'")
    follow.add_argument(
        "--every", type=_above_zero, default=2.0, metavar="S", help="between two questions (default %(default)g)"
    )
    follow.add_argument(
        "--since", type=_above_zero, default=60.0, metavar="S", help="begins so long ago (default %(default)g)"
    )
    shells = commands.add_parser(
        "completion", help="completion for a shell", description="Prints the completion for a shell."
    )
    shells.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shells.add_argument("--json", action="store_true", help="print one JSON object")
    move = command(
        "migrate", "whether M3's processes can be exchanged by ours now, and how, one by one; writes nothing"
    )
    move.add_argument("--back", action="store_true", help="the other way round: ours by M3's")
    move.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML of an aggregator or a coordinator: KV, environment, keys, topics",
    )
    _watching(move)
    _bench(
        command("bench", "sends numbered metrics at a rate, and says how they were acknowledged; WRITES to the cluster")
    )
    check = command("doctor", "checks the whole set-up and says how to mend what is wrong")
    _watching(check)
    return parser


def _bench(load: argparse.ArgumentParser) -> None:
    load.add_argument(
        "service", choices=("aggregator", "coordinator"),
        help="aggregator: m3msg to the instances of the placement; coordinator: remote write to --coordinator",
    )  # fmt: skip
    load.add_argument(
        "--yes", action="store_true", help="needed: it is meant to write; without it, says what it would write"
    )
    load.add_argument("--seconds", type=_above_zero, default=10.0, metavar="S", help="default %(default)g")
    load.add_argument(
        "--rate", type=_above_zero, default=1000.0, metavar="N", help="samples a second (default %(default)g)"
    )
    load.add_argument("--series", type=_count, default=100, metavar="N", help="new series (default %(default)s)")
    load.add_argument(
        "--prefix", type=_name, default="m3ctl_bench", metavar="NAME", help="their name (default %(default)s)"
    )
    load.add_argument(
        "--policy", type=_policy, default=StoragePolicy.parse("10s:2d"), metavar="POLICY",
        help="of what is sent to aggregators (default %(default)s)",
    )  # fmt: skip
    load.add_argument("--instance", default="", metavar="ID", help="aggregator: only series of this instance's shards")
    load.add_argument("--check", action="store_true", help="coordinator: ask its store what has come back")
    load.add_argument(
        "--wait", type=_above_zero, default=30.0, metavar="S",
        help="how long to wait for acknowledgements, and for what comes back (default %(default)g)",
    )  # fmt: skip


def _watching(check: argparse.ArgumentParser) -> None:
    """What commands take that look at the whole set-up."""
    check.add_argument("--ingest-topic", type=_word, default=TOPICS[0], metavar="TOPIC", help=f"default: {TOPICS[0]}")
    check.add_argument("--output-topic", type=_word, default=TOPICS[1], metavar="TOPIC", help=f"default: {TOPICS[1]}")
    check.add_argument(
        "--wait",
        type=_above_zero,
        default=25.0,
        metavar="S",
        help="how long to watch the flush times advance (default 25)",
    )


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
        "--timeout", type=_above_zero, default=5.0, metavar="S", help="of every request (default %(default)g)"
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


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _word(text: str) -> str:
    """What goes into a header of a request."""
    if not (text.strip() and text.isprintable() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is empty or has characters that M3's headers cannot carry")
    return text


def _count(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a metric")
    return text


def _policy(text: str) -> StoragePolicy:
    try:
        return StoragePolicy.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no policy such as 10s:2d: {error}") from None


def _port(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: expected a number from 1 to 65535")
    return int(text)
