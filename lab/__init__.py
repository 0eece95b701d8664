"""The laboratory: what tests, benchmarks and scripts need to run the services for real. Not shipped; ``src`` does not import it.

``ports``, ``waiting``, ``http`` and ``relay`` (a TCP connection that can be held or cut) need nothing else.
"""
