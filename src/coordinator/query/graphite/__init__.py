"""Graphite's render and find over any source of queries.

Open ``handlers`` first: ``Graphite``. ``requests`` understands a request, ``times`` the times in it, ``compiler`` its targets (with
``lexer`` and the table of ``functions``), ``paths`` the globs in these; ``grid`` lays points out, ``find`` looks for nodes. Functions
are compiled, and not evaluated.
"""

from coordinator.query.graphite.handlers import Graphite
from coordinator.query.graphite.paths import GlobError, graphite_path, is_path, path_matchers

__all__ = ["GlobError", "Graphite", "graphite_path", "is_path", "path_matchers"]
