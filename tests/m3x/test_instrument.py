"""Figures of one service, its own and those that its processes report."""

from m3x.instrument import Registry


def test_scopes_join_and_sanitise_names() -> None:
    registry = Registry()
    scope = registry.scope("m3aggregator").sub("aggregator").tagged(role="leader")
    scope.count("addTimed.errors")
    scope.count("addTimed.errors", 2)
    scope.gauge("election-manager.election-state", 3)
    page = registry.render().decode()
    assert 'm3aggregator_aggregator_addTimed_errors{role="leader"} 3.0' in page
    assert "# TYPE m3aggregator_aggregator_addTimed_errors counter" in page
    assert "_total" not in page
    assert 'm3aggregator_aggregator_election_manager_election_state{role="leader"} 3.0' in page


def test_reports_of_processes_add_up_and_counters_outlive_them() -> None:
    registry = Registry()
    registry.merge("worker-0", {"map.new-entries{shard=1}": 5}, {"memory": 10.0}, prefix="m3")
    registry.merge("worker-1", {"map.new-entries{shard=1}": 7}, {"memory": 20.0}, prefix="m3")
    assert registry.counter("m3.map.new-entries", shard="1") == 12
    assert "m3_memory 30.0" in registry.render().decode()
    registry.forget("worker-1")
    registry.merge("worker-1", {"map.new-entries{shard=1}": 1}, {}, prefix="m3")
    assert registry.counter("m3.map.new-entries", shard="1") == 13
    assert "m3_memory 10.0" in registry.render().decode()


def test_histograms_are_cumulative() -> None:
    registry = Registry()
    scope = registry.scope("x")
    scope.record("latency", 0.003)
    scope.record("latency", 100)
    page = registry.render().decode()
    assert 'x_latency_bucket{le="0.002"} 0.0' in page
    assert 'x_latency_bucket{le="0.004"} 1.0' in page
    assert 'x_latency_bucket{le="+Inf"} 2.0' in page
    assert "x_latency_sum 100.003" in page
