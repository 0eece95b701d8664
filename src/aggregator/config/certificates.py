"""What of an instance's files of TLS and tokens could not be used as things are."""

from collections.abc import Iterator

from aggregator.config.service import ServiceConfig
from m3msg.producer.options import ProducerOptions
from m3x.access import unusable
from m3x.tls import ClientTLSConfig, ServerTLSConfig, trouble_with

__all__ = ["certificate_problems"]


def certificate_problems(config: ServiceConfig) -> Iterator[tuple[str, str]]:
    """The key, and what is wrong."""
    sections: dict[str, ServerTLSConfig | ClientTLSConfig] = {}
    if config.server is not None:
        sections["m3msg.server.tls"] = config.server.server.tls
    if config.rawtcp is not None:
        sections["rawtcp.tls"] = config.rawtcp.tls
    client = config.aggregator.client
    if client.type == "m3msg" and client.m3msg is not None:
        sections["aggregator.client.m3msg.producer"] = _tls(client.m3msg.producer)
    if (legacy := client.legacy("", 0)) is not None:
        sections["aggregator.client.connection.tls"] = legacy.tls
    for index, handler in enumerate(config.aggregator.flush.handlers):
        if handler.dynamic_backend is not None:
            path = f"aggregator.flush.handlers[{index}].dynamicBackend.producer"
            sections[path] = _tls(handler.dynamic_backend.producer)
    for path, section in sections.items():
        where = f"{path}.writer.connection.tls" if path.endswith("producer") else path
        if (trouble := trouble_with(section)) is not None:
            yield where, trouble
    yield from unusable(config.security)


def _tls(producer: ProducerOptions) -> ClientTLSConfig:
    return producer.writer.connection.tls
