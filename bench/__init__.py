"""Benchmarks: ``scripts/bench --help`` lists them; each prints what it measured and how.

Each command has a module: ``ingest`` (``journal_turns`` for ``--journal both``), ``steady``, ``beside``, ``scaling``, ``low_rate``,
``latency``, ``pauses`` (the load of these is ``paced``), ``memory``, ``chain/command``, ``profile/command``, ``engine_bench``, ``soak``,
``storm/command``, ``start``, ``rules_bench``, ``cache_bench``, ``write``, ``writes``, ``out_new_series``, ``journal_bench``,
``segments_bench``, ``sinks``, ``tls_bench``,
``storage_bench``, ``prom_remote``, ``m3db_wire``, ``m3tsz_bench``, ``outage`` (and ``outage_store``, its stores). What they stand on:
``messages`` (encoded once), ``acks`` (what takes their acks), ``load`` (a load generator that stays cheaper than what it measures),
``loading`` (that one, and what it costs), ``sink`` (a consumer that acks and adds up), ``http_drain`` (an endpoint that counts),
``m3db_nodes`` (nodes that take everything), ``instance`` (a real aggregator of ``lab``), ``rivals`` (ours and those
of others, in clusters alike). Speed is reported here and never asserted in tests.
"""
