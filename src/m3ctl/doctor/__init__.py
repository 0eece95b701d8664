"""``m3ctl doctor``: walks the whole set-up and says, line by line, what is right, what is not, and how to mend it.

``finding``    one line of the result
``run``        the order of the checks, and the report; open this first
``set_up``     what the coordinator knows: KV, placements, topics, whether they fit together
``instances``  what every instance says: reachable, ready, clocks, leadership
``flushing``   whether flush times advance
"""

from m3ctl.doctor.run import doctor

__all__ = ["doctor"]
