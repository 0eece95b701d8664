"""Benchmarks: ``scripts/bench --help`` lists them; each prints what it measured and how.

Each command has a module (the table in ``__main__``). What they stand on: ``messages`` (encoded once), ``load`` (a load generator that
stays cheaper than what it measures), ``sink`` (a consumer that acks and adds up), ``http_drain`` (an endpoint that counts),
``outage_store`` (what ``outage`` writes to), ``instance`` (a real aggregator of ``lab``). Speed is reported here and never asserted in
tests.
"""
