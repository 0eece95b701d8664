"""Child processes of a service: forked from one that has loaded everything, kept alive, and the private directory that they share with it.

``child``          a process in successive incarnations, started again when it dies
``zygote``         the service's end of the process that children are forked from; ``forking`` is what runs inside of it
``running``        one running child process, watched
``restarts``       how soon what died is started again
``run_directory``  sockets and option files, removed at the end and after a ``kill -9``
"""

from m3x.processes.child import Child, Launch, Spawner
from m3x.processes.forking import FIRST_FILE
from m3x.processes.run_directory import run_directory
from m3x.processes.running import Running
from m3x.processes.zygote import SpawnError, Zygote

__all__ = ["FIRST_FILE", "Child", "Launch", "Running", "SpawnError", "Spawner", "Zygote", "run_directory"]
