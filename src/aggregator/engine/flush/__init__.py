"""What happens to a window: ``plan`` (what is due, and what becomes of it), ``run`` (its values in parts).

``emit`` (final values) and ``forward`` (messages to rollups) are compiled.

Imports ``tables``, ``windows`` and ``state``.
"""
