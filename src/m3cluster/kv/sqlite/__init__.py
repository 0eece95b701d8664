"""The stores on SQLite: our own, for one machine and for tests.

``store``     the asyncio shell around ``m3cluster.kv.rules``, used by both; open this first
``embedded``  an SQLite file shared by the processes of one machine
``bell``      how its processes tell each other of writes
``memory``    the same inside one process

Imports the modules of ``m3cluster.kv`` and ``m3x``. Outside of it only ``open`` and the door of ``m3cluster.kv`` import it.
"""
