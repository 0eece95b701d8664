"""The command ``m3ctl``: looks at a cluster of aggregators and hands leadership over, through the HTTP APIs that M3 itself has.

``cli``         the command, its exit codes; open this first
``arguments``   what each command takes
``cluster``     what a cluster is asked: the coordinator's admin API, every aggregator's port 6001
``client``      HTTP with errors that say what, where and what to do
``answers``     the bodies that are read, M3's and ours
``kv``          the same cluster's keys read from etcd or an embedded KV directly, where HTTP does not offer them
``report``      what a command found, as text and as JSON
``placement``, ``topic``, ``shards``, ``leaders``, ``resign``, ``flush_times``, ``top``, ``tail``   one command each
``doctor``      the command that checks the whole set-up
``bench``       the command that sends a known load
``migrate``     the command that says how to exchange M3's processes by ours

Works against M3's own coordinator and aggregator too; what only ours serve (``/shards``, ``/ready`` of an aggregator) is said to be missing
there. Imports ``m3cluster``, ``m3metrics``, ``m3msg`` and ``m3x``, never a service.
"""
