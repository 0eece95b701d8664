"""A client of M3DB's nodes: writes as the Go coordinator makes them, tagged reads.

Facts: docs/m3/m3db_wire.md; docs/m3/m3db_reading.md; docs/m3/m3db_cluster.md.

``errors``       what goes wrong: one hierarchy; open ``CallFailure`` to see how a call can end
``connection``   one connection to a node: handshake, calls side by side, deadlines
``tchannel``     the transport without its sockets: frames, handshake, fragments
``thrift``       structs of the nodes' calls ↔ bytes: tables, and the plain codec that is the authority
``write``        rows in columns → series ids, shards, frames of batch writes; what nodes answer to them
``m3tsz``        the compressed streams in which nodes give points → columns
``read``         tagged reads: queries, answers, what becomes of several answers
``reader``       asks all nodes, until their answers are enough
``topology``     which host has which shard
``consistency``  how many copies have to answer
``tallies``      the same for many rows at once, in ``tally_kernels``; and which rows go to which hosts
``namespaces``   the registry of namespaces in the KV
``following``    placement and registry as they change in the KV
``options``      what a session is told
``session``      the session: follows the topology, writes rows; open this first to see how all of it plays together
``attempt``      one round of a write
``host``         the connections to one host

Cores are pure: bytes or arrays in, bytes or columns out. Imports ``m3x``, ``m3metrics`` and ``m3cluster`` only.
"""
