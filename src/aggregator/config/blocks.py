"""Blocks that several sections of the file share: names of services, places in the KV.

docs/m3/aggregation.md, top-level sections.
"""

from m3x.config import Meaningless, Section
from m3x.pools import BucketizedPoolConfig

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND


class ServiceIDConfig(Section, frozen=True, kw_only=True):
    """``serviceID: {name, environment, zone}``."""

    name: str = ""
    environment: str = ""
    zone: str = ""


class CodecConfig(Section, frozen=True, kw_only=True):
    """Largest frame, length prefix included."""

    max_message_size: int = 4 << 20
    bytes_pool: Meaningless[BucketizedPoolConfig] = None
