"""That the vectors are there, and that somebody reads each of them."""

from pathlib import Path

import pytest
from tests.golden import vectors


def test_vectors_are_present_and_each_has_one_reader() -> None:
    if not vectors.present() and not vectors.REQUIRED:
        pytest.skip(f"no golden vectors in {vectors.ROOT} (set GOLDEN_DIR): nothing is compared with the real M3")
    assert vectors.present(), f"REQUIRE_GOLDEN=1, but there are no golden vectors in {vectors.ROOT}"
    assert not set(vectors.READERS) & set(vectors.LATER)
    known = set(vectors.READERS) | set(vectors.LATER)
    assert vectors.names() - known == set(), "nobody reads these: name their reader in vectors.py"
    assert known - vectors.names() == set(), "these do not exist"


@pytest.mark.parametrize(("name", "module"), vectors.READERS.items())
def test_the_reader_reads(name: str, module: str) -> None:
    assert name.split("/")[1] in (Path(__file__).parents[1] / module).read_text()
