"""The coordinator of ``scripts/run --sink prometheus``."""

from pathlib import Path

from lab.cluster import LOCAL, overlaid
from lab.stack import prometheus_sink
from tests.real_servers import require_binary

from coordinator.config import load_coordinator


def test_its_file_is_valid_and_names_both_stores(tmp_path: Path) -> None:
    require_binary("prometheus")
    store = prometheus_sink.store_of(tmp_path)
    files = overlaid(LOCAL / "m3coordinator.yml", prometheus_sink.overlay(store), tmp_path / "sink.yml")
    config = load_coordinator(files[1::2]).value
    assert config.unsupported() == []
    assert config.has_embedded_store
    assert not config.embedded_alone
    remote = config.prometheus_remote_backend
    assert remote is not None
    assert [str(endpoint.address) for endpoint in remote.endpoints] == [store.write_url]
