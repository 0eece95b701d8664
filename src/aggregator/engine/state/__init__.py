"""Compiled work on elements: ``elements`` (slots, groups, chains), ``state`` (what those have that transform, forward, or may be flushed
again), ``pipeline`` (what a flush does with these).

Imports ``tables`` and ``windows``.
"""
