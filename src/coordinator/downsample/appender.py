"""One series → what is sent for each of its samples (docs/m3/coordinator.md, appender).

Rules are matched here, on the coordinator, once per series: what comes out, metric ids and staged metadatas, goes with every sample to the
aggregators, which know no rules. What no rule covers is mapped to the aggregated namespaces (``auto_mapping``).
"""

from collections.abc import Sequence
from typing import Self

import msgspec

from coordinator.config.cluster import Namespace
from coordinator.config.coordinator import CoordinatorConfig
from coordinator.downsample.policies import auto_mapping
from coordinator.downsample.possible import joined, possible
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.downsample.rules import RulesInEffect
from coordinator.downsample.tags import augmented
from coordinator.not_kept import Reason
from m3metrics.codec import encode_staged_metadatas
from m3metrics.filters import TagsFilter
from m3metrics.ids import Tags, coordinator_tags, encode_tags, matching_tags
from m3metrics.metadata import DropResult, StagedMetadata, StagedMetadatas, apply_drop_policies, is_default
from m3metrics.metric import DROP_TIMESTAMP_TAG, MetricType
from m3metrics.policy import DropPolicy, StoragePolicy
from m3metrics.rules import MatchedPipeline, MatchedStage, MatchResult, staged_metadatas, stages_at

NAMESPACE_TAG = "__m3_namespace__"
NO_AGGREGATED_NAMESPACE = (
    "there is no aggregated namespace: add one with type: aggregated to clusters[].namespaces in the coordinator's file"
)
NONE_IN_REGISTRY = (
    "there is no aggregated namespace: M3DB's registry has none that is ready, or the KV has not said so yet"
)
_DEFAULT = DEFAULT_NAMESPACE.encode()
_NO_MATCH = MatchResult()


class TemplateSpec(msgspec.Struct, frozen=True):
    """What all samples that are sent for one series and id have in common."""

    id: bytes
    metadatas: bytes
    """Content of the StagedMetadatas message."""
    metric_type: MetricType = MetricType.GAUGE
    annotation: bytes = b""
    untimed: bool = False
    """Sent without its timestamp: the aggregator takes the time of arrival."""


class Appended(msgspec.Struct, frozen=True):
    """What becomes of a series."""

    specs: tuple[TemplateSpec, ...] = ()
    drop_policy_applied: bool = False
    """A drop rule has matched, even one without effect: the series is not written unaggregated either."""
    drop_timestamp: bool = False
    unsent: Reason | None = None
    """Why there are no ``specs``; None: there are."""


class Decision(msgspec.Struct, frozen=True):
    """What the rules and the namespaces make of a metric."""

    considered: tuple[MatchedPipeline, ...]
    """Of the metric itself, before drop policies."""
    pipelines: tuple[MatchedPipeline, ...]
    """After them."""
    rollups: tuple[tuple[bytes, StagedMetadatas], ...]
    drop_result: DropResult
    drop_timestamp: bool

    @property
    def unsent(self) -> Reason:
        """Why nothing is sent, if nothing is."""
        return Reason.DROP_RULE if self.drop_result is DropResult.APPLIED else Reason.NO_RULE


class Downsampler:
    """Maps series for one set of namespaces. ``no_aggregators`` says why there is nobody to send to, whatever comes out; None: there is."""

    def __init__(
        self,
        namespaces: Sequence[Namespace],
        rules: RulesInEffect | None = None,
        *,
        namespace_tag: str = NAMESPACE_TAG,
        untimed_rollups: bool = False,
        now_ns: int = 0,
        no_aggregators: str | None = None,
        no_namespace: str = NO_AGGREGATED_NAMESPACE,
        inside: bool = False,
    ) -> None:
        """``no_namespace``: what to say where none of the namespaces is aggregated. ``inside``: aggregation happens inside this coordinator
        (``possible``)."""
        self._inside = inside
        self._no_aggregators = no_aggregators
        self.no_namespace = no_namespace
        self._rules = rules or RulesInEffect()
        self._namespace_tag = namespace_tag.encode()
        self._untimed_rollups = untimed_rollups
        self._encoded: dict[StagedMetadatas, bytes] = {}
        self._version = -1
        self._span = (0, 0)
        self._matching = False
        self.generation = 0
        """Grows whenever the same series may map to something else than before."""
        self.set_namespaces(namespaces)
        self.advance(now_ns)

    @classmethod
    def of(cls, config: CoordinatorConfig, rules: RulesInEffect, now_ns: int) -> Self:
        """The one that a coordinator with this file has."""
        section = config.downsample
        no_namespace = NO_AGGREGATED_NAMESPACE if config.knows_namespaces else NONE_IN_REGISTRY
        if section is None:
            return cls(
                config.namespaces,
                rules,
                no_aggregators=config.no_aggregators,
                now_ns=now_ns,
                no_namespace=no_namespace,
                inside=config.aggregates_inside,
            )
        return cls(
            config.namespaces, rules, namespace_tag=section.matcher.namespace_tag, untimed_rollups=section.untimed_rollups,
            no_aggregators=config.no_aggregators, now_ns=now_ns, no_namespace=no_namespace, inside=config.aggregates_inside,
        )  # fmt: skip

    def set_namespaces(self, namespaces: Sequence[Namespace]) -> None:
        """Maps to these from now on."""
        self._enabled = any(n.aggregated for n in namespaces)
        staged = auto_mapping(namespaces)
        self._auto = tuple(MatchedPipeline(metadata=p) for stage in staged for p in stage.pipelines)
        self._auto_encoded = encode_staged_metadatas(staged) if staged else None
        self.generation += 1

    @property
    def rules(self) -> RulesInEffect:
        """The rules that are matched."""
        return self._rules

    @property
    def now_ns(self) -> int:
        """The time for which rules are matched: that of the last ``advance``."""
        return self._now_ns

    @property
    def enabled(self) -> bool:
        """Whether there is any aggregated namespace; without one nothing is sent, whatever rules say."""
        return self._enabled

    @property
    def obstacle(self) -> str | None:
        """Why this coordinator can send nothing at all to aggregators, whatever rules say; None: it can."""
        return self._no_aggregators or (None if self._enabled else self.no_namespace)

    @property
    def auto_metadatas(self) -> bytes | None:
        """Metadatas of a metric that no rule matches; None: such metrics are not sent."""
        return self._auto_encoded

    @property
    def matching(self) -> bool:
        """Whether there is any rule in effect."""
        return self._matching

    def filters(self) -> list[TagsFilter]:
        """The filters of all rules in effect: a metric that matches none of them is sent with ``auto_metadatas``."""
        return self._rules.filters(self._now_ns) if self._matching else []

    def advance(self, now_ns: int) -> int:
        """Lets rules change and come into effect; returns ``generation``."""
        begin, end = self._span
        if not (self._version == self._rules.version and begin <= now_ns < end):
            self._version = self._rules.version
            self._span = self._rules.span(now_ns)
            self._matching = bool(self._rules.filters(now_ns))
            self._encoded.clear()
            self.generation += 1
        self._now_ns = now_ns
        return self.generation

    def append(
        self,
        tags: Sequence[tuple[bytes, bytes]],
        metric_type: MetricType = MetricType.GAUGE,
        prom_type: str = "unknown",
        *,
        annotation: bytes = b"",
        metadatas: Sequence[StagedMetadatas] | None = None,
    ) -> Appended:
        """What to send for a series with these tags, in any order; ``metadatas`` override rules and mapping (carbon), each with a message.

        ``prom_type`` is one of ``m3metrics.metric.PROM_TYPES``. Raises ``ValueError`` for no tags, and ``m3metrics.errors.IdError`` for
        tags that cannot be encoded.
        """
        if not tags:
            raise ValueError("no tags provided")
        if not self._enabled:
            return Appended(unsent=Reason.NO_AGGREGATED_NAMESPACE)
        matched = matching_tags(tags, metric_type.name.lower(), prom_type)
        own = coordinator_tags(matched)
        if metadatas is not None:
            ident = encode_tags(own)
            sent = self._sent([(ident, one) for one in metadatas], metric_type)
            specs = [TemplateSpec(ident, self._encode(staged), metric_type, annotation) for ident, staged in sent]
            return Appended(tuple(specs), unsent=None if specs else Reason.AGGREGATION_TYPE)
        decision = self.decide(matched)
        wanted = [*of_the_metric(own, decision.pipelines), *decision.rollups]
        specs = [
            TemplateSpec(ident, self._encode(staged), metric_type, annotation, decision.drop_timestamp)
            for ident, staged in self._sent(wanted, metric_type)
        ]
        unsent = None if specs else Reason.AGGREGATION_TYPE if wanted else decision.unsent
        return Appended(tuple(specs), decision.drop_result is not DropResult.NONE, decision.drop_timestamp, unsent)

    def _sent(
        self, wanted: list[tuple[bytes, StagedMetadatas]], metric_type: MetricType
    ) -> list[tuple[bytes, StagedMetadatas]]:
        return joined(possible(wanted, metric_type)) if self._inside else wanted

    def match(self, matched: Tags) -> MatchResult:
        """What the rules alone say; ``matched`` are those of ``m3metrics.ids.matching_tags``."""
        if not self._matching:
            return _NO_MATCH
        active = self._rules.of(self.namespace_of(matched))
        return active.match(matched, self._now_ns, self._now_ns + 1) if active is not None else _NO_MATCH

    def namespace_of(self, matched: Tags) -> bytes:
        """The namespace of rules that the metric belongs to."""
        return next((value for name, value in matched if name == self._namespace_tag), _DEFAULT)

    def decide(self, matched: Tags) -> Decision:
        """Joins what the rules say with the automatic mapping, and applies drop policies.

        docs/m3/coordinator.md, order of decisions.
        """
        result = self.match(matched)
        stages = stages_at(result.existing, self._now_ns)
        pipelines: list[MatchedPipeline] = []
        covered: list[StoragePolicy] = []
        if not _is_default(stages):
            for stage in stages:
                for pipeline in stage.pipelines:
                    if pipeline.metadata.is_mapping_rule:
                        covered += pipeline.metadata.storage_policies
            pipelines += stages[-1].pipelines
        if all(p.metadata.drop_policy == DropPolicy.NONE for p in pipelines):
            pipelines += [auto for auto in self._auto if not _covers(covered, auto)]
        drop_timestamp = any(
            any(name == DROP_TIMESTAMP_TAG for name, _ in pipeline.tags)
            or (self._untimed_rollups and not pipeline.metadata.is_mapping_rule)
            for pipeline in pipelines
        )
        kept, drop_result = _without_dropped(pipelines)
        rollups = tuple((match.id, staged_metadatas(stages_at(match.stages, self._now_ns))) for match in result.rollups)
        drop_timestamp |= self._untimed_rollups and bool(rollups)
        return Decision(tuple(pipelines), kept, rollups, drop_result, drop_timestamp)

    def _encode(self, metadatas: StagedMetadatas) -> bytes:
        encoded = self._encoded.get(metadatas)
        if encoded is None:
            if len(self._encoded) >= 4096:
                self._encoded.clear()
            encoded = self._encoded[metadatas] = encode_staged_metadatas(metadatas)
        return encoded


def _is_default(stages: Sequence[MatchedStage]) -> bool:
    """``is_default`` of staged metadatas, or there are none."""
    if len(stages) != 1:
        return not stages
    stage = stages[0]
    return (
        stage.cutover_ns == 0
        and not stage.tombstoned
        and len(stage.pipelines) == 1
        and _is_default_pipeline(stage.pipelines)
    )


def _is_default_pipeline(pipelines: Sequence[MatchedPipeline]) -> bool:
    return len(pipelines) == 1 and is_default(_one_stage(pipelines))


def _covers(policies: Sequence[StoragePolicy], auto: MatchedPipeline) -> bool:
    (policy,) = auto.metadata.storage_policies
    return any(policy.equivalent(other) for other in policies)


def _without_dropped(pipelines: Sequence[MatchedPipeline]) -> tuple[tuple[MatchedPipeline, ...], DropResult]:
    if all(p.metadata.drop_policy == DropPolicy.NONE for p in pipelines):
        return tuple(pipelines), DropResult.NONE
    _, result = apply_drop_policies(tuple(p.metadata for p in pipelines))
    if result is DropResult.APPLIED:
        return (), result
    if result is DropResult.REMOVED_INEFFECTIVE:
        return tuple(p for p in pipelines if p.metadata.drop_policy == DropPolicy.NONE), result
    return tuple(pipelines), result


def of_the_metric(own: Tags, pipelines: Sequence[MatchedPipeline]) -> list[tuple[bytes, StagedMetadatas]]:
    """Ids and metadatas of the metric itself: a pipeline whose rule has tags has an id of its own, all others share one."""
    if not pipelines or _is_default_pipeline(pipelines):
        return []
    tagged = [p for p in pipelines if p.tags or p.graphite_prefix]
    plain = [p for p in pipelines if not (p.tags or p.graphite_prefix)]
    result = [(encode_tags(augmented(own, p)), _one_stage([p])) for p in tagged]
    if plain:
        result.append((encode_tags(own), _one_stage(plain)))
    return result


def _one_stage(pipelines: Sequence[MatchedPipeline]) -> StagedMetadatas:
    return (StagedMetadata(pipelines=tuple(p.metadata for p in pipelines)),)
