"""The parent process of an instance: processes, placement, election, flush schedule, flush times, output, HTTP.

Open ``instance`` first: it wires everything. Pure state machines: ``schedule`` (when), ``flushing`` (who flushes what), ``flush_times``
(up to where it is safe), ``election`` (may we), ``placement`` (which shards). Shells: ``elector`` and ``shard_set`` (KV), ``fleet``,
``children`` and ``channels`` (processes and sockets), ``forwarder`` and ``sinks`` (output), ``limits``, ``problems``, ``status``
(what HTTP shows), ``running`` (the whole process, signals included).
"""

from aggregator.supervisor.instance import Instance
from aggregator.supervisor.running import run

__all__ = ["Instance", "run"]
