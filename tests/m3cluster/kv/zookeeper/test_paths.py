"""Every key has one path that ZooKeeper takes, and only such paths are keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster import keys
from m3cluster.kv.zookeeper.paths import Paths

CHARACTERS = st.one_of(st.sampled_from("/%=.az\x00\x7f\u00e9\ud7ff\ue000\ufffe😀\udcff"), st.characters(codec="utf-8"))
KEYS = st.one_of(
    st.text(CHARACTERS, max_size=12), st.sampled_from(("zookeeper", "zookeeper/a", ".", "..", "a/../b", "%", "/", ""))
)


def key_of(path, chroot):
    """The key that a path stands for, read folder by folder as a listing does."""
    segments = []
    *folders, last = path.removeprefix(chroot).split("/")[1:]
    for name in folders:
        segment, holds_value = Paths(chroot).read(name, first=not segments)
        assert not holds_value
        segments.append(segment)
    segment, holds_value = Paths(chroot).read(last, first=not segments)
    assert holds_value
    return "/".join((*segments, segment))


@given(KEYS, st.sampled_from(("", "/m3", "/a/b")))
def test_every_key_has_a_path_that_leads_back(key, chroot):
    path = Paths(chroot).value(key)
    assert key_of(path, chroot) == key
    assert path not in (Paths(chroot).clock, "/zookeeper")
    assert not path.startswith("/zookeeper/")
    for name in path.split("/")[1:]:
        assert name not in ("", ".", "..")
        # What ZooKeeper refuses (PathUtils.validatePath of its sources).
        assert not any(c <= "\x1f" or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\uf8ff" or c >= "\ufff0" for c in name)


@given(KEYS, KEYS)
def test_no_two_keys_meet(one, other):
    assert (Paths("").value(one) == Paths("").value(other)) == (one == other)
    # Nor is a folder of one the node of the other.
    assert Paths("").value(one) not in Paths("").parents(Paths("").value(other))


@pytest.mark.parametrize(
    "name", ["", "%4", "%zz", "%41", "a%3d", "a%", "%clock", "=%", "a=b", "zookeeper", "%25%", "a/b"[:1] + "\x7f"]
)
def test_other_names_are_somebody_elses(name):
    assert Paths("").read(name, first=True) is None


def test_keys_of_m3_stay_readable():
    paths = Paths("/m3")
    assert paths.value(keys.flush_times_key("prod", 3)) == "/m3/_kv/prod/shardset/3/flush="
    assert paths.value(keys.placement_key("prod", "m3aggregator")) == "/m3/%/placement/prod/m3aggregator="
    assert paths.value(keys.placement_key("prod", "m3coordinator")) == "/m3/_sd.placement/prod/m3coordinator="
    assert paths.value(keys.rule_namespaces_key("prod")) == "/m3/_kv/prod/%/namespaces="
    assert paths.parents(paths.value("a/b")) == ["/m3", "/m3/a"]
    assert Paths("").value("a") == "/a="
    assert Paths("").parents("/a=") == []
    assert (paths.top, Paths("").top) == ("/m3", "/")
