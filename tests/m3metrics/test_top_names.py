"""Which names are kept, against a table that looks for its smallest count each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3metrics.top_names import TopNames

KEPT = 4
NAMES = st.binary(min_size=1, max_size=1)
ADD = st.tuples(NAMES, st.sampled_from([0.5, 1.0, 1.0, 3.0, 40.0]))
FADE = st.sampled_from([0.5, 0.9])


class Plain:
    """The same, as the algorithm is written down."""

    def __init__(self) -> None:
        self.counts: dict[bytes, list[float]] = {}

    def add(self, name: bytes, amount: float) -> None:
        if name not in self.counts:
            inherited = 0.0
            if len(self.counts) >= KEPT:
                least = min(self.counts, key=lambda one: self.counts[one][0])
                inherited = self.counts.pop(least)[0]
            self.counts[name] = [inherited, 0.0]
        self.counts[name][0] += amount
        self.counts[name][1] += amount

    def fade(self, factor: float) -> None:
        for count in self.counts.values():
            count[0] *= factor


@given(st.lists(ADD | FADE, max_size=200))
def test_names_give_way_in_the_order_of_their_counts(steps: list[tuple[bytes, float] | float]) -> None:
    top, plain = TopNames(KEPT), Plain()
    for step in steps:
        if isinstance(step, tuple):
            top.add(*step)
            plain.add(*step)
        else:
            top.fade(step)
            plain.fade(step)
        found = {count.name: [count.recent, count.series] for count in top.most(KEPT)}
        assert found == plain.counts


def test_a_name_with_more_than_its_share_is_always_there() -> None:
    top = TopNames(KEPT)
    for number in range(1000):
        top.add(b"often", 1.0)
        top.add(b"%d" % number, 1.0)
    assert top.most(1)[0].name == b"often"
    assert top.most(1)[0].series == pytest.approx(1000)
