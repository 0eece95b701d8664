"""From the tags of a series to what is sent to the aggregators: metric id, staged metadatas, metric type.

``appender``   one series → what is sent of it (open this first)
``policies``   what namespaces ask for where no rule does, and which policies they store
``rules``      the rules in effect; ``rule_file`` makes them of the configuration, ``kv_rules`` follows them in KV
``possible``   what aggregation inside asks for, where M3 loses or spoils
``tags``       ids of metrics whose rule adds tags
``explain``    which rules match a metric, and why; ``routes`` over HTTP
``dry_run``    what changed rules would make of the series that come in

Pure, but for ``kv_rules`` and ``routes``: imports ``m3metrics``, ``coordinator.config``, ``coordinator.not_kept`` and ``m3x`` only.
"""

from coordinator.downsample.appender import Appended, Downsampler, TemplateSpec
from coordinator.downsample.policies import auto_mapping, override
from coordinator.downsample.rule_file import rule_set_of
from coordinator.downsample.rules import RulesInEffect

__all__ = ["Appended", "Downsampler", "RulesInEffect", "TemplateSpec", "auto_mapping", "override", "rule_set_of"]
