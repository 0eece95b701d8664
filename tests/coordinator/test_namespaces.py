"""Namespaces that come and go."""

from coordinator.config import Namespace
from coordinator.namespaces import NamespacesNow

RAW, TEN = Namespace("raw", 0, 10**12), Namespace("ten", 10**10, 10**12)


def test_changes_are_told_and_nothing_else() -> None:
    namespaces = NamespacesNow(fixed=False)
    seen: list[tuple[Namespace, ...]] = []
    namespaces.follow(lambda: seen.append(namespaces.current))
    assert not namespaces.known
    # That there are none is news as well.
    for now in ((), (RAW,), (RAW,), (RAW, TEN), ()):
        namespaces.put(now)
    assert namespaces.known
    assert seen == [(), (RAW,), (RAW, TEN), ()]


def test_those_of_a_file_are_known() -> None:
    namespaces = NamespacesNow([RAW])
    assert (namespaces.fixed, namespaces.known, namespaces.current) == (True, True, (RAW,))
