"""Compiled work on windows, for elements with and without state: ``pages`` finds windows and records and gives them back, ``records`` adds
values, ``values`` reads aggregations out of them; ``annotations`` and ``sources`` are the tables that go with values.

Imports ``tables``.
"""
