"""What happens to a sample: ``scan`` (a batch, open it first), ``apply`` (one message), ``forwarded``, ``entries``, ``limits``.

``metadata`` turns metadata bytes into rows, ``metadata_index`` finds them.

Imports ``tables``, ``windows`` and ``state``.
"""
