"""Forms by table."""

import gc
import weakref

import numpy as np

from coordinator.sinks.m3db.forms import FormCache
from coordinator.sinks.series import SeriesTable
from m3db.write import FormRules
from m3metrics.ids import encode_tags


def test_a_table_has_its_forms_as_long_as_it_lives() -> None:
    cache = FormCache(FormRules(16))
    table, other = SeriesTable(), SeriesTable()
    number = table.number(encode_tags([(b"a", b"b")]))
    forms = cache.of(table)
    assert cache.of(table) is forms
    assert cache.of(other) is not forms
    assert not len(forms.require(table, np.array([number], np.uint32)))
    assert forms.form(number).id == b'{a="b"}'
    gone = weakref.ref(forms)
    del table, forms
    gc.collect()
    assert gone() is None
