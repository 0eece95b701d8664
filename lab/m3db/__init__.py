"""M3DB nodes that are played, for tests of their clients.

``node``        a node: its port, connections and faults; open this first
``faults``      what can be wrong with it
``judge``       what a client sent that it should not
``wire``        TChannel on the side of a node
``thrift``      Thrift's values; ``structs``: those of the methods
``answering``   from a call to its answer; ``writes`` and ``reads``: the methods
``series``      ids, tags, shards
``namespaces``  options, what times are taken, the registry
``storage``     what a node holds; ``m3tsz``: as streams of points; ``index``: queries of it
``process``     a node as a process of its own: ``control`` is its side port, ``journal`` keeps what it has stored
``placements``  placements and the registry in a KV: nodes join, leave and are replaced

``drill``       a coordinator under load, nodes that fail, and a look at every value: ``scripts/m3db-drill``

Written from what is known of M3's nodes alone: nothing of the client under test is imported, so that no error of it can hide here.
"""
