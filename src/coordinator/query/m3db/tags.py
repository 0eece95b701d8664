"""The tags of what M3DB answers, as queries have them: labels sorted by name, without the tag that says *graphite*.

M3DB's index has a name that is there twice with each of its values, and a tag without a value as one that is there. Of series like
that a matcher that denies something leaves out what it should not. Where ``tagOptions`` let them in, nodes are asked for all that may
match (``asked_for``), and what matches is decided by the labels that the answer shows (``labels_of``).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher, MatchOp
from coordinator.query.graphite.paths import ID_TAG
from coordinator.query.source import Notes, Series
from coordinator.store import LabelIndex
from coordinator.store.series import stored_forms
from m3db.read.merge import ByteColumn

__all__ = ["asked_for", "judged_here", "labels_of", "sorted_tags"]


def sorted_tags(tags: ByteColumn) -> tuple[Series, NDArray[np.int64]]:
    """The series, and which of them have tags that cannot be read; these are not to be used."""
    forms = stored_forms(tags.arena, tags.at, tags.size, allow_duplicates=True, allow_empty_value=True)
    bad = np.array(list(forms.errors), np.int64)
    notes = Notes()
    if len(bad):
        notes = Notes(warnings=(f"{len(bad)} series are left out: {forms.errors[int(bad[0])]}",))
    return Series(forms.buf, forms.at, forms.size, notes), bad


def asked_for(matchers: Sequence[Matcher]) -> list[Matcher]:
    """Matchers that every series has to satisfy in the index if its labels satisfy ``matchers``."""
    asked = []
    for matcher in matchers:
        if matcher.predicate()(b""):
            continue
        denies = matcher.op in (MatchOp.NOT_EQUAL, MatchOp.NOT_REGEX)
        asked.append(Matcher(MatchOp.NOT_EQUAL, matcher.name, b"") if denies else matcher)
    return asked


def judged_here(matchers: Sequence[Matcher]) -> list[Matcher]:
    """Those that labels can be asked for: ids are known to the index alone."""
    return [matcher for matcher in matchers if matcher.name != ID_TAG]


def labels_of(series: Series) -> LabelIndex:
    """What matches among them, and their names and values."""
    return LabelIndex(lambda: (series.arena, series.at, series.size))
