"""What ``scripts/cluster`` does: a coordinator and N mirrored aggregators on loopback, for trying failover by hand.

``__main__`` reads the arguments; ``conductor`` starts, watches and ends; ``layout`` says who is where; ``files`` writes the configuration;
``leadership`` watches who leads; ``orders`` are the commands that can be typed. Demo stream and judgement are those of ``lab.stack``.
"""
