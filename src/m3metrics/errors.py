"""What goes wrong with metrics: one hierarchy for the package."""

__all__ = [
    "CodecError",
    "ConvertError",
    "IdError",
    "MetricsError",
    "PolicyError",
    "UnmarshalError",
    "UnrecognizedTypeError",
]


class MetricsError(ValueError):
    """Base of all errors of ``m3metrics``."""


class PolicyError(MetricsError):
    """A duration, resolution, storage policy, drop policy, aggregation type or metric type that M3 does not accept."""


class IdError(MetricsError):
    """Bytes that are not an encoded tag set, or tags that cannot be encoded."""


class CodecError(MetricsError):
    """A message that cannot be decoded. ``stage`` tells how far it came."""

    stage = ""


class UnmarshalError(CodecError):
    """The bytes break protobuf's wire format."""

    stage = "unmarshal"


class ConvertError(CodecError):
    """The bytes are protobuf, their content is no valid metric."""

    stage = "convert"


class UnrecognizedTypeError(CodecError):
    """``MetricWithMetadatas.type`` is none of the seven payloads."""

    stage = "type"

    def __init__(self, number: int, text: str = "unrecognized message type") -> None:
        super().__init__(text)
        self.number = number
