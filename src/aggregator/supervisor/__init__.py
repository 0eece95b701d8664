"""The parent process of an instance: processes, placement, election, flush schedule, flush times, output, HTTP.

Open ``instance`` first, which waits for a placement, then ``serving``, which wires everything. Rooms: ``election`` (who leads),
``flushing`` (what is flushed when, up to where it is safe), ``processes`` (front and workers), ``output`` (where it goes). ``shard_set``
carries the decisions of the first two to the KV and back, ``placement`` says which shards are ours, ``set_up`` what can be wrong with it,
``front`` what a front is told, ``ending`` how an instance ends without a loss; ``limits``, ``memory``, ``clock_faults``, ``problems``,
``status`` (what HTTP shows; ``picture``: what its page draws), ``running`` (the whole process, signals included). Metrics: ``shown``
looks at gauges, ``placement_figures`` counts, ``m3_names`` has what else M3 calls it.
"""

from aggregator.supervisor.instance import Instance
from aggregator.supervisor.running import run

__all__ = ["Instance", "run"]
