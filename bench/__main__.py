"""``scripts/bench COMMAND``: ``ingest``, ``steady`` (see ``bench.ingest``), ``engine`` (``bench.engine_bench``), ``soak``,
``rules`` (``bench.rules_bench``), ``out`` (``bench.out_new_series``), ``segments`` (``bench.segments_bench``), ``sinks``
(``bench.sinks``), ``storage`` (``bench.storage_bench``), ``remote`` (``bench.prom_remote``), ``m3db`` (``bench.m3db_wire``),
``outage`` (``bench.outage``) and ``m3tsz`` (``bench.m3tsz_bench``)."""

import sys

from lab.errors import LabError

from m3x.version import VERSION

_USAGE = """usage: scripts/bench COMMAND [options]; COMMAND --help lists the options

  ingest    messages as fast as an instance acknowledges them
  steady    every series once per window: ingest, flush and forward together
  engine    the engine of one worker alone: per sample and per flushed value
  soak      whether memory comes back when series come and go
  rules     what rules cost the coordinator per new series and per sample
  out       what a series costs the coordinator from m3msg into its store, when it is new and afterwards
  segments  what a log on disk costs: append, sync, read, open
  sinks     what a value costs on its way through queues to sinks
  storage   what the way out costs a whole coordinator, from m3msg to remote write
  remote    what remote write alone costs, from columns to the wire
  m3db      what writes to M3DB cost before the socket: a new series, a value, an error
  outage    two stores behind a coordinator, one of them away for an hour's worth of values, and kill -9 meanwhile
  m3tsz     what a point that is read from M3DB costs to decode

  --help, --version"""


def main() -> int:
    """Dispatches to the benchmark."""
    command, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in ("ingest", "steady"):
        from bench.ingest import run  # noqa: PLC0415 - --help must not load the kernels

        return run(command, rest)
    if command == "engine":
        from bench.engine_bench import main as engine  # noqa: PLC0415

        return engine(rest)
    if command == "soak":
        from bench.soak import main as soak  # noqa: PLC0415

        return soak(rest)
    if command == "rules":
        from bench.rules_bench import main as rules  # noqa: PLC0415

        return rules(rest)
    if command == "out":
        from bench.out_new_series import main as out  # noqa: PLC0415

        return out(rest)
    if command == "segments":
        from bench.segments_bench import main as segments  # noqa: PLC0415

        return segments(rest)
    if command == "sinks":
        from bench.sinks import main as sinks  # noqa: PLC0415

        return sinks(rest)
    if command == "storage":
        from bench.storage_bench import main as storage  # noqa: PLC0415

        return storage(rest)
    if command == "remote":
        from bench.prom_remote import main as remote  # noqa: PLC0415

        return remote(rest)
    if command == "m3db":
        from bench.m3db_wire import main as m3db  # noqa: PLC0415

        return m3db(rest)
    if command == "outage":
        from bench.outage import main as outage  # noqa: PLC0415

        return outage(rest)
    if command == "m3tsz":
        from bench.m3tsz_bench import main as m3tsz  # noqa: PLC0415

        return m3tsz(rest)
    if command == "--version":
        print(f"scripts/bench {VERSION}")
        return 0
    wanted = command in ("--help", "-h")
    print(_USAGE, file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"error: {error}")
