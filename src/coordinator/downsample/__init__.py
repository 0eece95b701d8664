"""From the tags of a series to what is sent to the aggregators: metric id, staged metadatas, metric type.

Open ``appender`` first. ``policies`` has the mapping of namespaces to metadatas. Pure: imports
``m3metrics`` and ``coordinator.config`` only.
"""

from coordinator.downsample.appender import Appended, Downsampler, TemplateSpec
from coordinator.downsample.policies import auto_mapping, override
from coordinator.downsample.rule_file import rule_set_of
from coordinator.downsample.rules import RulesInEffect

__all__ = ["Appended", "Downsampler", "RulesInEffect", "TemplateSpec", "auto_mapping", "override", "rule_set_of"]
