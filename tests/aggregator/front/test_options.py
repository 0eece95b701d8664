"""What several workers share."""

import pytest

from aggregator.front.options import MIB, FrontOptions


def options(workers: int, **others: int) -> FrontOptions:
    return FrontOptions(listener=-1, run_dir="", epoch=1, parent_pid=0, workers=workers, **others)


@pytest.mark.parametrize(("workers", "credit"), [(1, 16), (2, 8), (3, 16 / 3), (4, 4), (8, 4), (64, 4)])
def test_credit_is_shared_out_but_for_two_batches(workers: int, credit: float) -> None:
    assert options(workers).credit_of_worker == int(credit * MIB)


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16, 64])
def test_what_workers_hold_and_what_is_being_filled_fits_into_shared_memory(workers: int) -> None:
    some = options(workers)
    assert workers * (some.credit_of_worker + some.batch_bytes) <= some.shared_of_workers


def test_less_credit_than_two_batches_is_kept_to() -> None:
    assert options(4, credit_bytes=MIB).credit_of_worker == MIB
    assert options(4, shared_bytes=0).shared_of_workers == 0
