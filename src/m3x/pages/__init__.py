"""Pages for people, rendered by the server: what is there is readable without scripts, and one small script looks again without flicker.

``frame`` is the page around: style, script, headers. Its parts are plain functions from figures to HTML: ``flow`` (stages with what goes
from one to the next), ``charts`` (the last hour as lines), ``tables``, ``growth`` (names that grow), ``traffic`` (names that send most),
``shard_map`` (shards × instances). ``history`` keeps what rates and charts are made of, ``texts`` writes figures as people read them.
Nothing is loaded from elsewhere; everything that a page shows is escaped where it is put into HTML.
"""

from m3x.pages.charts import Chart, Line, chart
from m3x.pages.flow import Edge, Lane, Stage, flow
from m3x.pages.frame import HEADERS, frame
from m3x.pages.growth import growth
from m3x.pages.history import History
from m3x.pages.shard_map import Holder, Stretch, shard_map, stretches
from m3x.pages.tables import bullets, facts, table
from m3x.pages.texts import amount, size
from m3x.pages.traffic import traffic

__all__ = [
    "HEADERS",
    "Chart",
    "Edge",
    "History",
    "Holder",
    "Lane",
    "Line",
    "Stage",
    "Stretch",
    "amount",
    "bullets",
    "chart",
    "facts",
    "flow",
    "frame",
    "growth",
    "shard_map",
    "size",
    "stretches",
    "table",
    "traffic",
]
