"""M3DB as a sink (docs/storage.md, M3DB).

Open ``sink`` first. ``targets`` says which namespace values go to and which times it takes, ``sorting`` what of a batch may be sent
now (``kernels``), ``forms`` what series are called, ``verdicts`` what nodes have said, ``ailing`` whose nodes say nothing; ``troubles``
has the lines for people. All but ``sink`` is pure; ``coordinator.m3db`` opens the session and follows the registry.
"""

from coordinator.sinks.m3db.sink import M3DBSink, WritingSession
from coordinator.sinks.m3db.targets import Limits, Target, Targets

__all__ = ["Limits", "M3DBSink", "Target", "Targets", "WritingSession"]
