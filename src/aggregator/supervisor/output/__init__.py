"""From workers' output to consumers: ``forwarder`` queues the parts of flushes, ``sinks`` are the producers that take them, ``passing``
adds passthrough metrics.
"""
