"""Batch writes: rows in columns → call frames, and what nodes answer (docs/m3/m3db_wire.md, batch write).

``rows``      the columns of values
``forms``     series number → series id, encoded tags and shard, made once (``form_kernels``)
``requests``  rows → frames of calls (``request_kernels``)
``answers``   which elements a node did not write (``answer_kernels``)
``warmup``    compiles the kernels
"""

from m3db.write.answers import ElementErrors, all_written, element_errors
from m3db.write.forms import FormRules, SeriesForms
from m3db.write.requests import MOST_ELEMENTS, Calls, encode_calls
from m3db.write.rows import WriteRows

__all__ = [
    "MOST_ELEMENTS",
    "Calls",
    "ElementErrors",
    "FormRules",
    "SeriesForms",
    "WriteRows",
    "all_written",
    "element_errors",
    "encode_calls",
]
