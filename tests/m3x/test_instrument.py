"""Figures of one service, its own and those that its processes report."""

import msgspec

from m3x.instrument import Registry, Report


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


def test_the_newest_report_of_a_process_counts_however_it_was_told() -> None:
    registry = Registry()
    registry.merge("one", {"a": 1}, {"b": 1.0})
    registry.merge("one", {"a": 2}, {"b": 2.0})
    assert registry.counter("a") == 2
    registry.merge("one", {"a": 3}, {"b": 3.0})
    registry.take("one", Report([(("a", ()), 4.0)], [], []))
    assert registry.counter("a") == 4
    assert registry.totals() == {"a": 4.0}
    registry.merge("one", {"a": 5}, {"b": 5.0})
    # What nobody has looked at before the process was gone is counted all the same.
    registry.forget("one")
    assert registry.totals() == {"a": 5.0}


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


def test_reports_of_whole_registries_are_one_page_and_outlive_their_processes() -> None:
    main, worker = Registry(["_version"]), Registry()
    for registry, number in ((main, 1), (worker, 10)):
        scope = registry.scope("c").tagged(path="a,b={}")
        scope.count("requests", number)
        scope.gauge("waiting", number)
        scope.gauge("rules_version", number)
        scope.record("latency", 0.5, number)
    report = msgspec.msgpack.decode(msgspec.msgpack.encode(worker.report()), type=Report)
    main.take("writer 0.1", report)
    main.take("writer 0.1", report)
    page = main.render().decode()
    assert 'c_requests{path="a,b={}"} 11.0' in page
    assert 'c_waiting{path="a,b={}"} 11.0' in page
    assert 'c_rules_version{path="a,b={}"} 10.0' in page
    assert 'c_latency_bucket{le="0.6",path="a,b={}"} 11.0' in page
    assert 'c_latency_sum{path="a,b={}"} 5.5' in page
    main.forget("writer 0.1")
    main.forget("writer 0.1")
    page = main.render().decode()
    assert 'c_requests{path="a,b={}"} 11.0' in page
    assert 'c_latency_count{path="a,b={}"} 11.0' in page
    assert 'c_waiting{path="a,b={}"} 1.0' in page
    main.take("writer 0.2", report)
    assert main.counter("c_requests", path="a,b={}") == 21.0
