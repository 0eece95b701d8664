"""What happens to a sample: ``scan`` (a batch, open it first), ``apply`` (one message), ``forwarded``, ``entries``, ``limits``.
Messages that look like one before take a shorter way: ``shapes`` reads them, ``usual`` applies them.

``metadata`` turns metadata bytes into rows. ``shorthand`` writes what was applied, for a journal, and applies it again; ``repeats`` knows
what was applied and may come once more; ``looking`` looks at a few messages afterwards.

Imports ``tables``, ``windows`` and ``state``.
"""
