"""Who leads: this instance as a candidate of its shard set.

Open ``candidacy`` first: pure, what this instance and the others hold → whether it is a candidate, gives way, flushes. ``machine`` is the
election itself, pure as well; ``elector`` carries it out against the KV. ``completeness`` is since when all samples are held here,
``holdings`` since when the others hold theirs.
"""
