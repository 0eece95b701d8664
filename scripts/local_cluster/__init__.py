"""What ``scripts/cluster`` does: a coordinator and N mirrored aggregators on loopback, for trying failover by hand.

``__main__`` reads the arguments; ``conductor`` starts, watches and ends; ``layout`` says who is where; ``files`` writes the configuration;
``servers`` starts the KV; ``leadership`` watches who leads; ``orders`` are the commands that can be typed; ``family`` pauses an instance
with all its processes. Process handling, admin calls, demo stream and its judgement are those of ``local_stack``.
"""
