"""The store on an etcd v3 cluster: M3's own store, byte for byte.

``store``       the operations; open this first
``config``      names a cluster; needs no gRPC
``connection``  calls, endpoints and failover
``channel``     gRPC: the only module that imports it
``messages``    the wire: messages
``values``      the wire: keys and values
``watch``       one stream for all watches
``listing``     keys below a prefix, read again after a change
``lease``       leases
``keepalives``  one stream for the keepalives of all leases
``cache``       the file for a start without etcd

Imports the modules of ``m3cluster.kv``, ``m3cluster.proto`` and ``m3x``. Outside of it only ``open`` imports more than ``config``.
"""
