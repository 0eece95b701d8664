"""What happens to a sample: ``scan`` (a batch, open it first), ``apply`` (one message), ``forwarded``, ``entries``, ``limits``.

``metadata`` turns metadata bytes into rows.

Imports ``tables``, ``windows`` and ``state``.
"""
