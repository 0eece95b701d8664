"""``scripts/bench COMMAND``: ``ingest``, ``steady`` (see ``bench.ingest``), ``engine`` (``bench.engine_bench``), ``soak`` and
``rules`` (``bench.rules_bench``)."""

import sys


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
    print("usage: scripts/bench ingest|steady|engine|soak|rules [options]; each has --help", file=sys.stderr)
    return 0 if command in ("--help", "-h") else 2


if __name__ == "__main__":
    sys.exit(main())
