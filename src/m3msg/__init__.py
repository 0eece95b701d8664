"""m3msg, M3's message transport: frames, the consumer and the producer (docs/m3/m3msg.md).

Start with ``frames`` (the wire format in plain Python), then ``rows`` and ``kernels`` (the same, compiled, in columns); ``shapes``
recognises frames that look like one before. ``consumer`` is the listening side, ``producer`` the dialling side: pure cores over byte
buffers, and thin asyncio shells. ``legacy`` dials M3's older way, raw TCP. ``batch`` has the columns that producers take. ``client`` is a
small blocking producer for one consumer, of tools and tests.
Payloads are opaque here; imports only m3x and m3cluster.
"""
