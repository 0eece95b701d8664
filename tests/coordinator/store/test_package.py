"""The doors of the three packages."""

import coordinator.ingest
import coordinator.query
import coordinator.store


def test_doors() -> None:
    assert {"Store", "open_store", "WriteBatch"} <= set(coordinator.store.__all__)
    assert {"IngestServer", "IngestOptions"} <= set(coordinator.ingest.__all__)
    assert "query_routes" in coordinator.query.__all__
    for package in (coordinator.store, coordinator.ingest, coordinator.query):
        assert all(hasattr(package, name) for name in package.__all__)
