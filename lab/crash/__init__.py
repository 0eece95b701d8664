"""Crashes, measured on real processes: what was acked is looked for in what comes out, sample by sample.

``samples`` says what is sent and keeps the books: each sample's value shows in the value of its window whether it is missing there or came
twice. ``sender`` is a producer of m3msg, ``load`` runs those of all instances, ``writing`` sends remote write, ``sink`` takes what
comes out, ``stack`` starts the processes, ``faults`` says what happens to them, ``drill`` makes it happen, ``judge`` compares,
``refusals`` asks aggregators what they refused, ``waits`` how long they took, ``disk`` lets files take nothing, ``powercut``
takes from files what was not synced (``synced`` is loaded by the processes that note it). Start with ``python -m lab.crash --help``
(``scripts/crash``).
"""
