"""What packages and modules say they offer is there."""

import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "m3cluster.keys",
        "m3cluster.topic",
        "m3cluster.topology",
        "m3cluster.flush_times",
        "m3cluster.following",
        "m3cluster.election",
        "m3cluster.kv",
        "m3cluster.placement",
        "m3cluster.proto",
        "m3cluster.proto.messages",
        "coordinator.api",
    ],
)
def test_public_names_exist_and_are_named_once(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported), exported
