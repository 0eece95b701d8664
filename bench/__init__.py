"""Benchmarks. ``python -m bench ingest|steady|engine|soak|rules``; each prints what it measured and how.

``load`` is a load generator that stays cheaper than what it measures, ``sink`` a consumer that acks and adds up, ``instance`` starts a real
aggregator of ``lab`` to measure. Speed is reported here and never asserted in tests.
"""
