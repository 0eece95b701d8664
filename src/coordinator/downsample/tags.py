"""Ids of metrics whose mapping rule has tags of its own (docs/m3/coordinator.md, rule tags)."""

import re

from m3metrics.aggregation import AggregationType, decompress
from m3metrics.errors import PolicyError
from m3metrics.ids import Tags
from m3metrics.metric import GRAPHITE_AGGREGATION_TAG, PROM_SUMMARY_TAG, QUANTILE_TAG, RESERVED_PREFIX
from m3metrics.rules import MatchedPipeline

_GRAPHITE_NAME = re.compile(rb"__g(\d+)__")


def augmented(tags: Tags, pipeline: MatchedPipeline) -> Tags:
    """The metric's tags, behind the graphite prefix, followed by what the rule adds; nothing is sorted or replaced."""
    prefix = pipeline.graphite_prefix
    result = [(b"__g%d__" % index, part) for index, part in enumerate(prefix)]
    result += [(_shifted(name, len(prefix)), value) for name, value in tags] if prefix else tags
    kind = _first_type(pipeline.metadata.aggregation_id)
    for name, value in pipeline.tags:
        if not name.startswith(RESERVED_PREFIX):
            if name and value:
                result.append((name, value))
        elif name == GRAPHITE_AGGREGATION_TAG and kind is not None:
            parts = sum(tag.startswith(b"__g") for tag, _ in result)
            result.append((b"__g%d__" % parts, kind.base_string.encode()))
        elif name == PROM_SUMMARY_TAG and kind is not None and kind.quantile_text is not None:
            result.append((QUANTILE_TAG, kind.quantile_text.encode()))
    return result


def _shifted(name: bytes, by: int) -> bytes:
    match = _GRAPHITE_NAME.fullmatch(name)
    return b"__g%d__" % (int(match[1]) + by) if match else name


def _first_type(aggregation_id: int) -> AggregationType | None:
    try:
        types = decompress(aggregation_id)
    except PolicyError:
        return None
    return types[0] if types else None
