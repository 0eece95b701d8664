"""``m3ctl migrate``: whether the processes of a cluster can be exchanged now, M3's by ours or back, and how, one by one. Read-only.

``run``     the order of the looks, and the report; open this first
``stored``  the cluster as its KV has it: placements, topics and rules without a coordinator
``file``    which KV, environment and keys a configuration file of M3 names
``whose``   which process is M3's and which is ours
``safety``  what stands against exchanging a process now; pure
``steps``   which process comes when, and what is done with it; pure
"""

from m3ctl.migrate.run import migrate

__all__ = ["migrate"]
