"""``scripts/bench profile``: what each stage of the chain costs a sample, timed inside the processes of a run under load.

Open ``command`` first. ``stages`` names them, ``hooks`` times them inside a process (which ``site``, a folder on its ``PYTHONPATH``, asks
for), and ``limits`` measures what the machine needs for the same bytes at least.
"""
