"""Which metrics a rule is for: patterns of values and filters of tags (docs/m3/metrics.md, filters).

``pattern`` compiles the pattern of one value (``web[0-9]*``, ``!{a,b}``), ``tags`` the text of a whole filter
(``__name__:http_* app:nginx``). Everything works on bytes, as M3's does.
"""

from m3metrics.filters.pattern import FilterError, ValuePattern, compile_pattern
from m3metrics.filters.tags import NAME_TAG, TagsFilter, compile_filter, parse_filter

__all__ = [
    "NAME_TAG",
    "FilterError",
    "TagsFilter",
    "ValuePattern",
    "compile_filter",
    "compile_pattern",
    "parse_filter",
]
