"""The producer of m3msg: sends batches to every consumer service of a topic, at least once (docs/m3/m3msg.md, producer).

Open ``shell`` for the class that services use, ``core`` for the state machine behind it. Below the core: ``service_writer`` (one consumer
service), ``writers`` (which instance takes which shard), ``lane`` (the queue of one instance), ``link`` (one connection without its
socket), ``block`` (messages and how they end), ``rows`` and ``kernels`` (columns and compiled loops), ``filters``. ``connection`` is the
socket side of a link, ``set_up`` what the KV says, ``options`` the YAML section, ``client`` that of a
client of aggregators around it, ``status`` what the status page shows. Imports m3x,
m3cluster, m3metrics.policy.
"""

from m3msg.producer.block import Awaited, Done, Loss, Mark, Moment, Secured
from m3msg.producer.core import ProducerCore, TopicError
from m3msg.producer.filters import (
    Filter,
    FilterError,
    PercentageFilter,
    PolicyTable,
    ShardSetFilter,
    StoragePolicyFilter,
)
from m3msg.producer.kernels import warm
from m3msg.producer.options import ProducerOptions
from m3msg.producer.shell import Producer, ProducerClosedError
from m3msg.producer.status import InstanceStatus, ProducerStatus, ServiceStatus
from m3msg.producer.writers import PlacementError

__all__ = [
    "Awaited",
    "Done",
    "Filter",
    "FilterError",
    "InstanceStatus",
    "Loss",
    "Mark",
    "Moment",
    "PercentageFilter",
    "PlacementError",
    "PolicyTable",
    "Producer",
    "ProducerClosedError",
    "ProducerCore",
    "ProducerOptions",
    "ProducerStatus",
    "Secured",
    "ServiceStatus",
    "ShardSetFilter",
    "StoragePolicyFilter",
    "TopicError",
    "warm",
]
