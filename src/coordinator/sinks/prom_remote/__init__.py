"""Prometheus remote write: values in columns → requests of protocol 1.0 or 2.0 to one endpoint.

Open ``sink`` first; what it does with a batch:

``labels``     series number → label fields of the protocol, made once (``label_kernels``)
``encoding``   rows → request body (``encode_kernels``), compressed
``symbols``    the same for 2.0, where texts have numbers (``symbol_kernels``); ``version`` which of both an endpoint is sent
``sender``     the HTTP client: redirects, ``credentials``, TLS, proxies, time-outs
``answers``    what an answer means; what the stores in use do
``splitting``  which rows to send next when some were refused; ``named`` helps where the store names them
``metadata``   the types of metrics (``coordinator.sinks.metric_types``), with 1.0 in requests of their own beside the samples

``labels``, ``encoding``, ``answers``, ``splitting`` and ``named`` are pure. Keys and start errors: ``coordinator.config.prom_remote``;
``opening`` makes the sinks of that section.
"""

from coordinator.sinks.prom_remote.labels import LabelCache, LabelRules
from coordinator.sinks.prom_remote.sender import Endpoint
from coordinator.sinks.prom_remote.sink import PromRemoteOptions, PromRemoteSink

__all__ = ["Endpoint", "LabelCache", "LabelRules", "PromRemoteOptions", "PromRemoteSink"]
