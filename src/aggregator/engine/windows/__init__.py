"""Compiled work on windows, for elements with and without state: ``pages`` finds windows and gives them back, ``records`` finds and begins
records and adds values, ``slim`` does so for those that need two words only, ``values`` reads aggregations out of them, ``samples``
quantiles out of a timer's log; ``annotations`` and ``sources`` are the tables that go with values.

Imports ``tables``.
"""
