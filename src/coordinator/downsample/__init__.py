"""From the tags of a series to what is sent to the aggregators: metric id, staged metadatas, metric type.

Open ``appender`` first. ``policies`` has the mapping of namespaces to metadatas. Pure: imports
``m3metrics`` and ``coordinator.config`` only.
"""

from coordinator.downsample.appender import Downsampler, TemplateSpec
from coordinator.downsample.policies import auto_mapping, override

__all__ = ["Downsampler", "TemplateSpec", "auto_mapping", "override"]
