"""The service m3aggregator: one instance is a supervisor, a front and workers (docs/architecture.md §2).

| folder | what |
|---|---|
| ``cli`` | the command |
| ``config`` | the YAML file |
| ``supervisor`` | the parent process: open ``supervisor/serving.py`` to see how everything is wired |
| ``front`` | port 6000, in a process of its own |
| ``worker``, ``engine`` | the worker processes and what they do with samples |
| ``journal`` | what a worker applied, on disk: its successor goes on where it ended |
| ``http`` | port 6001 |
| ``ipc``, ``sockets`` | what these processes say to each other, and through what |
| ``lists`` | what is flushed together: the word of all of them |
| ``warmup`` | compiles the kernels at set-up |
| ``preload`` | loads them, and all modules, where processes are forked from |

Imports ``m3msg``, ``m3metrics``, ``m3cluster`` and ``m3x``, never ``coordinator``.
"""
