"""The store on a ZooKeeper ensemble (docs/zookeeper.md).

``store``    the operations; open this first
``config``   names an ensemble; needs no kazoo
``secure``   TLS, whose files all sessions share
``paths``    keys as paths
``session``  a session on the event loop
``client``   kazoo's threads and sockets
``watch``    watches
``lease``    leases

Imports the modules of ``m3cluster.kv`` and ``m3x``. Outside of it only ``open`` imports more than ``config``.
"""
