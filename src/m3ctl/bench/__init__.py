"""``m3ctl bench``: sends numbered metrics at a rate to aggregators or to a coordinator, and says what became of them.

``run``           what would be written, and the report; open this first
``load``          which samples there are and when each is due, figures of acks; pure
``aggregators``   m3msg to the instances of the placement, every replica
``coordinator``   remote write, and what comes back from the store
``remote_write``  bodies of requests
"""

from m3ctl.bench.run import bench

__all__ = ["bench"]
