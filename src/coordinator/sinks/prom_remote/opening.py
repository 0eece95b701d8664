"""``prometheusRemoteBackend`` → a sink for each of its endpoints."""

from dataclasses import replace

from coordinator.config.prom_remote import MESSAGE_2, EndpointConfig, PromRemoteConfig, sink_name
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.prom_remote.credentials import Address
from coordinator.sinks.prom_remote.labels import LabelCache, LabelRules
from coordinator.sinks.prom_remote.sender import Endpoint
from coordinator.sinks.prom_remote.sink import PromRemoteOptions, PromRemoteSink
from m3x.instrument import Scope
from m3x.tls import ClientTLS

__all__ = ["open_sinks"]


def open_sinks(
    section: PromRemoteConfig, rules: LabelRules, told: tuple[MetricTypes, Scope] | None = None
) -> list[PromRemoteSink]:
    """In the order of the file; connects to nobody yet. ``rules``: how tags become labels; raw samples keep their clients' labels.

    ``told``: the types of metrics for endpoints with ``sendMetadata``, and the scope ``sink``.
    Raises ``TLSError`` where certificates cannot be loaded.
    """
    aggregated, raw = LabelCache(rules), LabelCache(replace(rules, keep_scheme=True))
    return [
        PromRemoteSink(
            PromRemoteOptions(
                name=sink_name(endpoint.name),
                attributes=endpoint.attributes,
                ordered=endpoint.ordered,
                lanes=endpoint.lanes,
                batch_rows=endpoint.max_samples_per_send,
                remote_write_2=endpoint.protobuf_message == MESSAGE_2,
            ),
            _endpoint(section, endpoint),
            raw if endpoint.storage_policy is None else aggregated,
            (told[0], told[1].tagged(sink=sink_name(endpoint.name)))
            if told is not None and endpoint.send_metadata
            else None,
        )
        for endpoint in section.endpoints
    ]


def _endpoint(section: PromRemoteConfig, endpoint: EndpointConfig) -> Endpoint:
    basic = endpoint.basic_auth
    tls = endpoint.tls
    return Endpoint(
        address=Address.parse(endpoint.address),
        headers=endpoint.headers,
        user=None if basic is None else basic.username,
        password_file="" if basic is None else basic.password_file,
        bearer_token_file=endpoint.bearer_token_file,
        tls=ClientTLS(tls) if tls is not None and tls.enabled else None,
        proxy=Address.parse(endpoint.proxy_url) if endpoint.proxy_url else None,
        request_timeout_s=section.request_timeout.seconds,
        connect_timeout_s=section.connect_timeout.seconds,
        keep_alive_s=section.keep_alive.seconds,
        idle_timeout_s=section.idle_conn_timeout.seconds,
    )
