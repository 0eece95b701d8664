"""``scripts/bench COMMAND``; a command is a module with ``main(arguments)``."""

import importlib
import sys

from lab.errors import LabError

from m3x.version import VERSION

_COMMANDS = {
    "ingest": ("ingest", "messages as fast as an instance acknowledges them"),
    "steady": ("steady", "every series once per window: ingest, flush and forward together, beside any rival"),
    "beside": ("beside", "an instance and any rival that speaks m3msg, in turn under the same load"),
    "scaling": ("scaling", "what a message costs with one, two, four, eight workers"),
    "chain": ("chain.command", "the whole way of a sample, from remote write to the store, beside that of any rival"),
    "profile": ("profile.command", "what each stage of that way costs, beside what the same bytes cost at least"),
    "low-rate": ("low_rate", "what a pair costs that gets few messages, and one that gets none"),
    "latency": ("latency", "how long acks take at half of the maximum throughput, and a large window to be out"),
    "memory": ("memory", "where the memory of an instance is when it has most, by process, area and table"),
    "pauses": ("pauses", "for how long ingest stands still while a snapshot of a worker is written"),
    "engine": ("engine_bench", "the engine of one worker alone: per sample and per flushed value"),
    "storm": ("storm.command", "whether known series are exact and on time while millions of new ids come"),
    "soak": ("soak", "whether memory comes back when series come and go"),
    "start": (
        "start",
        "how soon an instance applies samples after its start and after deaths, and what it costs when idle",
    ),
    "rules": ("rules_bench", "what rules cost the coordinator per new series and per sample"),
    "cache": ("cache_bench", "what the write path remembers of a series: bytes, CPU of a sample by number of series"),
    "write": ("write", "what a sample costs a coordinator by the protocol in which it is sent"),
    "writes": ("writes", "what a remote write costs a coordinator, answered at once or when it is acknowledged"),
    "out": (
        "out_new_series",
        "what a series costs the coordinator from m3msg into its store, when it is new and afterwards",
    ),
    "journal": ("journal_bench", "what a worker's journal costs: writing, replaying, a snapshot"),
    "segments": ("segments_bench", "what a log on disk costs: append, sync, read, open"),
    "sinks": ("sinks", "what a value costs on its way through queues to sinks"),
    "storage": ("storage_bench", "what the way out costs a whole coordinator, from m3msg to remote write"),
    "remote": ("prom_remote", "what remote write alone costs, from columns to the wire"),
    "m3db": ("m3db_wire", "what writes to M3DB cost before the socket: a new series, a value, an error"),
    "m3tsz": ("m3tsz_bench", "what a point that is read from M3DB costs to decode"),
    "tls": ("tls_bench", "what TLS costs an aggregator, a message and a connection"),
    "outage": (
        "outage",
        "two stores behind a coordinator, one of them away for an hour's worth of values, and kill -9 meanwhile",
    ),
}
"""Module and what it measures, by command. A module is loaded when it is asked for: ``--help`` must not load kernels."""


def _usage() -> str:
    lines = [f"  {command:9} {text}" for command, (_, text) in _COMMANDS.items()]
    return "\n".join([
        "usage: scripts/bench COMMAND [options]; COMMAND --help lists the options", "", *lines, "", "  --help, --version",
    ])  # fmt: skip


def main() -> int:
    """Dispatches to the benchmark."""
    command, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in _COMMANDS:
        module = importlib.import_module(f"bench.{_COMMANDS[command][0]}")
        return int(module.main(rest))
    if command == "--version":
        print(f"scripts/bench {VERSION}")
        return 0
    wanted = command in ("--help", "-h")
    print(_usage(), file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"error: {error}")
