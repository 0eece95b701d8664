"""Child processes of a service: kept alive, and the private directory that they share with it.

``child``          a process in successive incarnations, started again when it dies
``run_directory``  sockets and option files, removed at the end and after a ``kill -9``
"""

from m3x.processes.child import Child
from m3x.processes.run_directory import run_directory

__all__ = ["Child", "run_directory"]
