"""The laboratory: what tests, benchmarks and scripts need to run the services for real. Not shipped; ``src`` does not import it.

| module | what it gives |
|---|---|
| ``ports``, ``waiting``, ``http``, ``errors``, ``interrupts`` | free ports, waiting with a reason, requests, ``LabError``, Ctrl-C |
| ``relay`` | a TCP connection whose bytes can be held back or broken |
| ``processes`` | a process with its log, signals, what ``/proc`` says of its descendants |
| ``kv_servers``, ``kv`` | real etcd and ZooKeeper with their faults; each kind of KV as a configuration names it |
| ``cluster``, ``instances`` | overlays of configs/local, placements and topics; aggregators as processes |
| ``admin_calls``, ``prometheus`` | the calls of the how-to; a client of remote write and remote read |
| ``m3msg_client``, ``receiver`` | a small producer of m3msg; a remote write endpoint that answers as it is told |
| ``stores``, ``certificates`` | real stores that take remote write; an authority and what it signs |
| ``m3db`` | M3DB nodes that are played: what they were sent is judged, and they fail as they are told |
| ``failover``, ``crash`` | the failover drill, ``scripts/failover``, and the crash drill, ``scripts/crash`` |
| ``stack``, ``interactive`` | ``scripts/run`` and ``scripts/cluster`` |
| ``configuration_reference`` | docs/configuration.md, made of the types that read the files |

Each imports only those above it, and anything of ``src``. Nothing here needs pytest: scripts run without it (``tests/real_servers.py``
turns a missing server into a skipped test).
"""
