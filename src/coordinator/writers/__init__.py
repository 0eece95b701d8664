"""Processes that take writes: ``workers`` of the file, or one for each CPU (docs/architecture.md, "More than one core").

    senders ──7201──> write process 0 … N-1 ──m3msg──> aggregators      each with rules, series cache and producer of its own
                        │  what is no write: HTTP over a socket in the run directory
                        │  samples for stores, figures, problems: a link
                        ▼
                      main process: everything else, and the stores

The listening socket is the main process's; every write process is given it, so that the death of one refuses nobody. As many take
connections as have work enough (``use``), in turn (``board``). A write process is forked (``m3x.processes``) and started again when it
dies; it ends with the main process. With one worker there is no such process: the main process takes writes itself, by the same code
(``coordinator.writing``).

What a write process remembers of a request that will come again, the others know of: whoever gets the repeat hands it to that process
(``board``, ``handing``). A process that dies takes along what it remembered, as a coordinator does that dies; the ids of messages follow
from the request, so that aggregators recognise what comes again whichever process sends it.

``fleet``     the main process's end: starts them, asks them, ends them
``process``   a write process; ``options`` what it is told
``board``     the memory that all share: whose turn it is, who remembers which request; ``use`` how many take connections
``link``      calls between a write process and the main process; ``told`` what they say
``passing``   an HTTP request handed on as it is
``handing``   one that has been read already, to the process that remembers it
``direct``    samples for the main process's stores
``series``    the series that all of them remember

Imports ``coordinator.writing`` and what that imports, never ``coordinator.service``.
"""
