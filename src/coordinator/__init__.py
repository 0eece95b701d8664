"""The coordinator: metrics in, messages to the aggregators out; aggregated metrics back in, into storage; the admin API.

Open ``service`` first: the process, and all its routes. ``cli`` is the command, ``explain_rules`` its dry run (``asking``: of whom),
``config`` its file.

``write``       takes remote write and carbon; ``prompb`` has the messages of Prometheus
``writers``     processes that do so, where there are several; ``writing`` what each of them has, ``preload`` what they are forked with
``downsample``  decides what is sent to the aggregators
``child``       the aggregator inside, where the file names none
``ingest``      takes aggregated metrics from the aggregators
``sinks``       queues before stores, and the stores: where values go
``store``       the embedded one of these stores
``storage``     makes sinks and store of the configuration; ``m3db`` what there is of M3DB
``namespaces``  those that storage has now, which may come and go
``query``       answers queries, from whatever store can be read; ``reading`` says which
``matchers``    what labels are asked for
``api``         administers placements and topics
``pages``       shows people where data goes, why metrics become what they become, and stored series
``rights``      which calls need which token
``not_kept``    the reasons why samples are not kept, as senders and operators are told; ``examples`` which of them the log names, and how
``ready``       answers for all of it; ``memory`` looks at what the processes take
``m3_names``    what M3's dashboards call what is counted here
``warmup``      compiles the kernels

Never imports ``aggregator``.
"""

from m3x import process

# Before numpy is imported anywhere: a process with threads cannot be forked, and write processes are.
process.start_no_threads()
