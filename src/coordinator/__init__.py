"""The coordinator: metrics in, messages to the aggregators out; aggregated metrics back in, into storage; the admin API.

``cli`` is the command, ``service`` the process, ``config`` its file. ``write`` takes remote write and carbon, ``downsample`` decides
what is sent, ``ingest`` takes aggregated metrics from the aggregators, ``store`` keeps them, ``query`` reads them back, ``api``
administers placements and topics, ``not_kept`` has the reasons why samples are not kept, ``ready`` answers for all of it, ``warmup``
compiles the kernels. Never imports ``aggregator``. Open ``service`` first.
"""
