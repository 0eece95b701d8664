"""Failover, measured on real processes: a pair of aggregators that mirror each other, a load, faults, and a judge.

``plan`` says what a fault does and, from its times alone and before it runs, which windows no replica will hold completely. ``cluster``
starts the processes, ``kv`` the KV with its faults, ``load`` is the producer, ``consumer`` records what comes out, ``drill`` makes the
faults happen at their times, ``judge`` counts what is missing, wrong or doubled, ``scaling`` moves shards under load.
Start with ``python -m lab.failover --help`` (``scripts/failover``).
"""
