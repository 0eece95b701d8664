"""The consumer of m3msg: takes messages, hands them on in batches, acks them (docs/m3/m3msg.md, consumer).

Open ``core`` for one connection without its socket, ``shell`` for the server that services use; ``options`` has the YAML sections.
Imports m3x and the frame kernels of m3msg.
"""

from m3msg.consumer.core import ConsumerCore, ReceivedBatch
from m3msg.consumer.options import ConsumerOptions, ServerOptions
from m3msg.consumer.shell import ConsumerServer, Handler

__all__ = ["ConsumerCore", "ConsumerOptions", "ConsumerServer", "Handler", "ReceivedBatch", "ServerOptions"]
