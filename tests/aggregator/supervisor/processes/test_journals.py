"""Where the journals are, over restarts with the same and with another number of workers."""

from pathlib import Path

from aggregator import ipc
from aggregator.supervisor.election.completeness import Remembered
from aggregator.supervisor.flushing.holding import EVERYTHING
from aggregator.supervisor.processes.journals import Journals, unfinished

SHARDS = ipc.Shards(4, 4, [])
REMEMBERED = Remembered(holding=EVERYTHING, through_ns=0, peers=None)


def test_shards_stay_with_their_journal(tmp_path: Path) -> None:
    first = Journals(tmp_path, "os", 2)
    assert dict(first.owners) == {}
    first.assign({0: 1, 1: 0})
    again = Journals(tmp_path, "interval", 2)
    assert again.owners == {0: 1, 1: 0}
    options = again.options(1, SHARDS)
    assert (options.path, options.sync, options.sources) == (str(tmp_path / "1" / "worker-1"), "interval", ())


def test_another_number_of_workers_takes_over(tmp_path: Path) -> None:
    Journals(tmp_path, "os", 2).assign({0: 0, 1: 1})
    old = [tmp_path / "1" / f"worker-{n}" for n in range(2)]
    for folder in old:
        folder.mkdir(parents=True)
    three = Journals(tmp_path, "os", 3)
    assert dict(three.owners) == {}
    three.assign({0: 0, 1: 2})
    assert three.options(2, SHARDS).path == str(tmp_path / "2" / "worker-2")
    assert three.options(2, SHARDS).sources == tuple(map(str, old))
    three.ready(0)
    three.ready(1)
    # Killed before the last one was ready: it goes on.
    again = Journals(tmp_path, "os", 3)
    assert again.options(0, SHARDS).sources == tuple(map(str, old))
    for worker in range(3):
        again.ready(worker)
    assert not (tmp_path / "1").exists()
    assert again.options(0, SHARDS).sources == ()
    assert Journals(tmp_path, "os", 3).owners == {0: 0, 1: 2}


def test_journals_stay_that_were_taken_over_while_the_layout_cannot_be_written(tmp_path: Path) -> None:
    Journals(tmp_path, "os", 2).assign({0: 0, 1: 1})
    (tmp_path / "1" / "worker-0").mkdir(parents=True)
    (tmp_path / "layout.new").mkdir()
    one = Journals(tmp_path, "os", 1)
    one.assign({0: 0, 1: 0})
    one.ready(0)
    # For the next process nothing has changed.
    assert Journals(tmp_path, "os", 2).options(0, SHARDS).path == str(tmp_path / "1" / "worker-0")
    assert (tmp_path / "1" / "worker-0").exists()
    one.remember(REMEMBERED)
    assert not one.whole
    (tmp_path / "layout.new").rmdir()
    one.remember(REMEMBERED)
    assert one.whole
    assert not (tmp_path / "1").exists()
    assert unfinished(tmp_path) == 0


def test_a_layout_that_cannot_be_read_begins_a_new_generation(tmp_path: Path) -> None:
    Journals(tmp_path, "os", 1).assign({0: 0})
    (tmp_path / "1" / "worker-0").mkdir(parents=True)
    (tmp_path / "layout").write_text("{")
    fresh = Journals(tmp_path, "os", 1)
    options = fresh.options(0, SHARDS)
    assert Path(options.path).parent.name not in ("1", "0")
    assert options.sources == ()
    assert (tmp_path / "1" / "worker-0").exists()
