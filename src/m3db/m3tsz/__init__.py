"""m3tsz, the compressed streams of points in which M3DB keeps and gives the blocks of a series.

``format``    units and constants, how a stream ends; the page it cites has the layout
``plain``     ``read_points``: the authority
``encoding``  ``Encoder``: M3's bytes, for tests and played nodes
``kernels``   many streams to columns, compiled
``columns``   ``decode``: arrays around the kernels

Open ``plain`` first.
"""

from m3db.m3tsz.columns import PADDING, Points, TooManyPointsError, decode, joined
from m3db.m3tsz.encoding import EncodeError, Encoder
from m3db.m3tsz.format import StreamEnd, StreamError, Unit
from m3db.m3tsz.plain import Point, read_points

__all__ = [
    "PADDING", "EncodeError", "Encoder", "Point", "Points", "StreamEnd", "StreamError", "TooManyPointsError", "Unit", "decode",
    "joined", "read_points",
]  # fmt: skip
