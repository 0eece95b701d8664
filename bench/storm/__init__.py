"""``scripts/bench storm``: what known series suffer while millions of new ids come.

Open ``command`` first (what is measured, and the report); ``load`` sends known series and new ids, ``sink`` takes what is aggregated and
judges it, ``writes`` is the same at the door of a coordinator. ``series`` is what both ends know: ids, and the value of each series in each
window.
"""
