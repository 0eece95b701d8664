"""``scripts/bench chain``: the whole way of a sample, from remote write to the store, and what each process pays for it.

Open ``command`` first (what is measured and how). ``samples`` makes the load, ``chains`` has those that get it: ours and any rival,
``meter`` asks ``/proc`` what they cost, and ``store`` counts what arrives behind them.
"""
