"""Tagged reads: what is asked of nodes, and their answers as columns (docs/m3/m3db_reading.md). Who asks is ``m3db.reader``.

``index_query``  matchers ↔ the query of a request
``fetch``        the points of series: request, answer → columns; compiled: ``fetch_kernels``
``merge``        answers of several nodes → each series once; compiled: ``merge_kernels``
``aggregate``    names and values of tags: request, answer, several answers; compiled: ``aggregate_kernels``
``answers``      what both kinds of answers have in common

All pure: bytes in, columns out. Open ``fetch`` first.
"""
