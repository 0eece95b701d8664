"""What is flushed when, and up to where it is safe; all of it pure.

Open ``commands`` first (``Flushing``): which worker flushes what. ``schedule`` says when a list is due, ``flush_times`` is the watermark in
the KV, ``timing`` makes the schedule's options of the configuration. ``recovery`` holds rollups back after a replay until their sources
have come once more, ``holding`` says which windows are whole after a gap, ``figures`` counts.
"""
