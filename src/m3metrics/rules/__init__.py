"""Rules: what is to be done with which metrics, and what that means for one of them (docs/m3/metrics.md, rules).

``model``     rule sets: rules, their snapshots, the operations of their pipelines (open this first)
``convert``   rule sets out of decoded rulepb messages
``rollup``    ids of rolled-up metrics; the operations of a rule applied to one metric
``active``    the rules in effect: a metric's tags → staged metadatas and rollup ids, over a range of time
``index``     which rules can match at all, without trying every filter
``effect``    which storage policies rules ask for, and what of them has no effect

Pure, like all of ``m3metrics``: time is an argument, messages come as decoded dictionaries.
"""

from m3metrics.rules.active import ActiveRuleSet, MatchedStage, MatchResult, RollupMatch, staged_metadatas, stages_at
from m3metrics.rules.convert import namespaces_from, rule_set_from
from m3metrics.rules.effect import AskedPolicy, Ineffective, asked_policies, ineffective
from m3metrics.rules.model import (
    AggregateOp,
    MappingRule,
    MappingSnapshot,
    MatchedPipeline,
    Namespace,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RulesError,
    RuleSet,
)

__all__ = [
    "ActiveRuleSet",
    "AggregateOp",
    "AskedPolicy",
    "Ineffective",
    "MappingRule",
    "MappingSnapshot",
    "MatchResult",
    "MatchedPipeline",
    "MatchedStage",
    "Namespace",
    "RollupMatch",
    "RollupRule",
    "RollupRuleOp",
    "RollupSnapshot",
    "RollupTarget",
    "RuleSet",
    "RulesError",
    "asked_policies",
    "ineffective",
    "namespaces_from",
    "rule_set_from",
    "staged_metadatas",
    "stages_at",
]
