"""What ``scripts/run`` does: the whole stack on loopback, a demo stream, and the judgement of what comes out.

``__main__`` is the conductor; ``demo`` knows the series and feeds them; ``board`` shows what arrives in storage; ``judge`` computes what
must come out and compares it with what storage holds; ``prometheus_sink`` is a real Prometheus as that storage.
"""
