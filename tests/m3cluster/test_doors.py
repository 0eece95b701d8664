"""What packages and modules say they offer is there."""

import ast
import importlib
from pathlib import Path

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


KV = Path(importlib.import_module("m3cluster.kv").__file__).parent
STORES = ("sqlite", "etcd", "zookeeper")


def imports_of_kv(file):
    """Modules of ``m3cluster.kv`` that a file imports, without that prefix."""
    found = [n.module for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
    return {module.removeprefix("m3cluster.kv.") for module in found if module.startswith("m3cluster.kv.")}


def test_users_of_the_kv_come_through_its_door():
    files = [file for file in KV.parents[1].rglob("*.py") if KV not in file.parents]
    assert len(files) > 200
    assert {str(file): found for file in files if (found := imports_of_kv(file) - {"sections"})} == {}


@pytest.mark.parametrize("store", STORES)
def test_stores_are_opened_in_one_place_and_know_nothing_of_each_other(store):
    users = {
        file.relative_to(KV).as_posix()
        for file in KV.rglob("*.py")
        if any(name.split(".")[0] == store and name != f"{store}.config" for name in imports_of_kv(file))
        and file.parent.name != store
    }
    assert users <= {"open.py", "__init__.py"}
