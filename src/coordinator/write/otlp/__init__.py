"""``POST /api/v1/otlp/v1/metrics``: metrics of OpenTelemetry over HTTP, in protobuf and in JSON (docs/sending.md, OpenTelemetry).

What becomes a series and how it is called is Prometheus' translation of OTLP; what is ours: delta sums and histograms are aggregated.

``sender``  the ``Sender``: headers, body; open this first
``metrics``  resources, scopes, metrics and data points → samples, one kind of metric after the other
``labels``  attributes → labels, ``names`` names and units → those of Prometheus, ``texts`` values and numbers as texts
``answers``  what exporters are told

Protobuf is decoded by the ``protobuf`` package with the tables of ``opentelemetry-proto``, not by ``m3x.protobuf``: none of it is M3's, so
that neither bytes nor error texts have to be Go's, and in plain Python it would take seventy times as long.
"""

from coordinator.write.otlp.labels import Promotion
from coordinator.write.otlp.sender import OTLP, PATH

__all__ = ["OTLP", "PATH", "Promotion"]
