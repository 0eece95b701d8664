"""The cluster layer: what M3's processes agree on through a shared key-value store (docs/m3/cluster.md).

``keys``         the keys of everything that is stored
``environments`` which environments they are in
``kv``           the store: interface and backends (open ``kv/store.py`` first)
``following``    the one way to follow a key
``topic``        topics and their consumer services
``topology``     a topic and the placements of its services, followed
``placement``    placements: model, bytes, validation, making them
``flush_times``  flush times of a shard set
``election``     leader election on leases
``proto``        the messages behind all of them, as bytes and as JSON

Imports ``m3x`` only; both services, ``m3msg`` and the tools use it.
"""
