"""Tagged reads: what is asked of nodes, and their answers as columns (docs/m3/m3db_reading.md).

``index_query``  matchers ↔ the query of a request
"""
