"""``m3ctl topic``: what flows where."""

from collections.abc import Sequence

import msgspec

from m3ctl.cluster import Cluster
from m3ctl.report import Report, Table, shown_duration

__all__ = ["TOPICS", "show_topics"]

TOPICS = ("aggregator_ingest", "aggregated_metrics")
"""The topics of M3's documentation: to the aggregators, and from them."""


def show_topics(cluster: Cluster, names: Sequence[str]) -> Report:
    """Topics and their consumers. Raises ``CtlError``."""
    answers = [cluster.topic(name) for name in names]
    report = Report({"environment": cluster.settings.environment, "topics": msgspec.to_builtins(answers)})
    table = Table(
        ("topic", "version>", "shards>", "consumer", "environment", "zone", "type", "message ttl>", "filters")
    )
    for name, answer in zip(names, answers, strict=True):
        topic = answer.topic
        head = (name, str(answer.version), str(topic.number_of_shards))
        if not topic.consumer_services:
            table.rows.append((*head, "-", "-", "-", "-", "-", "-"))
            report.problems.append(f"topic {name} has no consumer: whatever is sent to it goes nowhere")
        for consumer in topic.consumer_services:
            service, ttl_ns = consumer.service_id, consumer.message_ttl_nanos
            ttl = shown_duration(ttl_ns / 1e9) if ttl_ns > 0 else "unlimited"
            filters = "none" if consumer.filters is None else "yes (--json)"
            table.rows.append(
                (*head, service.name, service.environment, service.zone, consumer.consumption_type, ttl, filters)
            )
    report.blocks.append(table)
    return report
