import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.write.otlp.names import NamingError, label_name, metric_name


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("http.server.duration", "s", "http_server_duration_seconds"),
        ("http.server.duration", "ms", "http_server_duration_milliseconds"),
        ("duration.seconds", "s", "duration_seconds"),
        ("system.disk.io", "By", "system_disk_io_bytes"),
        ("rate", "By/s", "rate_bytes_per_second"),
        ("rate", "1/s", "rate_per_second"),
        ("rate", "m/mo", "rate_meters_per_month"),
        ("rate", "{packets}/s", "rate_per_second"),
        ("rate", "By/{packet}", "rate_bytes"),
        ("broken", "/", "broken"),
        ("requests", "{request}", "requests"),
        ("requests", "1", "requests"),
        ("load", "%", "load_percent"),
        ("odd", "foo bar", "odd_foo_bar"),
        ("odd", "__x", "odd_x"),
        ("size", "KiBy", "size_kibibytes"),
        ("a..b__c--d", "", "a_b_c_d"),
        (":a:b", "", ":a:b"),
        ("2xx", "", "_2xx"),
        ("größe", "", "gr_e"),
        ("total", "", "total"),
    ],
)  # fmt: skip
def test_metric_names(name: str, unit: str, expected: str) -> None:
    assert metric_name(name, unit) == expected


def test_total_and_ratio_stand_at_the_end_once() -> None:
    assert metric_name("requests", "1", grows=True) == "requests_total"
    assert metric_name("total.requests", "", grows=True) == "requests_total"
    assert metric_name("io", "By", grows=True) == "io_bytes_total"
    assert metric_name("usage", "1", gauge=True) == "usage_ratio"
    assert metric_name("ratio.of.usage", "1", gauge=True) == "of_usage_ratio"
    assert metric_name("usage", "s", gauge=True) == "usage_seconds"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("http.method", "http_method"), ("a..b", "a__b"), ("1st", "key_1st"), ("__name__", "__name__"), ("__a.b__", "__a_b__"),
        ("_a", "key_a"), ("_", "key_"), (".a", "key_a"), ("a_", "a_"), ("__a", "__a"), ("maß", "ma_"),
    ],
)  # fmt: skip
def test_label_names(name: str, expected: str) -> None:
    assert label_name(name) == expected


@pytest.mark.parametrize("name", ["", "__", "____", "..."])
def test_what_has_no_name(name: str) -> None:
    for make in (label_name, lambda text: metric_name(text, "")):
        with pytest.raises(NamingError, match="has no name in Prometheus"):
            make(name)


@given(st.text(), st.text())
def test_whatever_comes_is_a_name_of_prometheus_or_refused(name: str, unit: str) -> None:
    try:
        made = metric_name(name, unit, grows=True)
    except NamingError:
        return
    assert made.isascii()
    assert all(c.isalnum() or c in "_:" for c in made)
    assert not made[0].isdigit()
