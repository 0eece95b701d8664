"""Series in the words of stores."""

import pytest

from coordinator.sinks.prom_remote.named import named_series


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('… and is from series up{job="a", x="b c"} (see the manual)', [(b"__name__", b"up"), (b"job", b"a"), (b"x", b"b c")]),
        ('series={__name__="up", job="a"}, timestamp=…', [(b"__name__", b"up"), (b"job", b"a")]),
        (r'from series {__name__="u", a="q\"{}\\ \n"} x', [(b"__name__", b"u"), (b"a", b'q"{}\\ \n')]),
        ('first {"json": 1} then up{b="2",a="1",}', [(b"__name__", b"up"), (b"a", b"1"), (b"b", b"2")]),
        ("out of order sample", None),
        ("{}", None),
        ('cut off: up{job="a', None),
        ("{nonsense}", None),
        ("a" * 4096, None),
        ("a" * 4000 + '{b="c"}', [(b"__name__", b"a" * 4000), (b"b", b"c")]),
        ('{"' * 2000, None),
        ('x{a="' + '"' * 4000, None),
    ],
)  # fmt: skip
def test_named_series(text: str, labels: list[tuple[bytes, bytes]] | None) -> None:
    assert named_series(text) == labels
