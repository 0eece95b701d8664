"""The tags of what M3DB answers, as queries have them: sorted by name, without the tag that says *graphite*."""

import numpy as np
from numpy.typing import NDArray

from coordinator.query.source import Notes, Series
from coordinator.store.series import stored_forms
from m3db.read.merge import ByteColumn

__all__ = ["sorted_tags"]


def sorted_tags(tags: ByteColumn) -> tuple[Series, NDArray[np.int64]]:
    """The series, and which of them have tags that cannot be read; these are not to be used."""
    forms = stored_forms(tags.arena, tags.at, tags.size, allow_duplicates=True, allow_empty_value=True)
    bad = np.array(list(forms.errors), np.int64)
    notes = Notes()
    if len(bad):
        notes = Notes(warnings=(f"{len(bad)} series are left out: {forms.errors[int(bad[0])]}",))
    return Series(forms.buf, forms.at, forms.size, notes), bad
