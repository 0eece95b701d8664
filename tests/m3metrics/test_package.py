"""The public door."""

import m3metrics
from m3metrics import codec


def test_everything_exported_exists() -> None:
    for module in (m3metrics, codec):
        assert sorted(set(module.__all__)) == sorted(module.__all__)
        for name in module.__all__:
            assert getattr(module, name).__doc__ is not None or not callable(getattr(module, name))
