"""Durable workers: what a worker applied is on disk before its ack leaves, and a successor goes on where it ended.

Open ``journal`` first (``Journal``: open, replay, append), then ``records`` (what is written), ``replaying`` (how it is applied again),
``sessions`` (which front sent what, and what may come again), ``snapshots`` (what the engine was at some place). On ``m3x.segments``;
imports ``aggregator.ipc`` and ``aggregator.engine``.

What determines the state of a worker
-------------------------------------
Its ordered stream and nothing else: the batches of samples with their stamps, and the supervisor's commands in their places between them
(placement, limits, flush, reopen, commit, expire). The engine asks no clock, draws no numbers, and when the parts of a flush are taken
changes no value. So the stream, applied once more, makes the same state, *by construction*: the same kernels get the same input.

Two forms were measured (frames of 163 and 177 bytes, 10,000 and 1 M series, CPU of the worker alone, on a machine with much else to do,
where ingest without a journal took 310 to 470 ns a message):

==========================================  ==============  ==========================  ===========================
form                                        bytes a sample  added to ingest             replay of known samples
==========================================  ==============  ==========================  ===========================
the stream as it is                         163–177         150–300 ns                  as ingest
rows of what was applied                    16–24           30–85 ns                    240–300 ns: 3.3–4.2 M/s
==========================================  ==============  ==========================  ===========================

``scripts/bench journal`` measures the second: a batch costs another 50 us to replay, a series that is met for the first time 2 us. For a
whole instance (``scripts/bench ingest --journal both``) the journal takes a tenth of its messages per CPU second, and half of them where
acks take so long that each message may come again. Of 1,000,000 series a snapshot takes 0.8 s of CPU, and loading it twice that.

What is written is the stream, shortened: a message of a series that is known, with the metadata that it had the last time, is a row of
(number of the entry, time, value), every other message is its bytes (``aggregator.engine.ingest.shorthand``). Replaying a row skips what
the row leaves out, decoding and look-up, and does what is left with the same kernel (``apply.apply_to``), refusals and rate limits
included. No kind of sample needs a case of its own. Numbers are the engine's rows of entries; a whole row says which number its series
has. After a replay rows may be others than before: a ``Numbers`` record says so once.

What is promised
----------------
*Applied, written, acked.* A batch is one record, whole or not there. It is written after it was applied and before its ack leaves; commands
are written before they are carried out. The front keeps what a dead worker has not acked, with stamps and sequence numbers, and gives it to
the successor first, which knows from the journal what of it is there (``sessions``): that is acked, and not applied.

*Repeats.* Behind the front nobody knows what a producer has got: acks are written to a socket. Batches are *settled* when the peers'
systems have taken all their acks; how far that is stands in every record. What was not settled when a connection was cut, the front died
or the instance was started anew may come again, and is recognised by what it is (``aggregator.engine.ingest.repeats``) for ``REPEATS_NS``.
So is what waited long for its ack: producers send it again over the connection that they have (``aggregator.worker.durable``).

*Damage.* A torn tail is cut off (``m3x.segments``): nothing of it was acked, but for a power cut under a policy that allows it. Where
records in the middle cannot be read all numbers become unknown: samples of series that no later record defines are lost and counted, never
given to a wrong series. What could not be read is set aside, and the worker goes on.

*A disk that takes nothing.* The batch in hand waits, unacked, and all behind it; it is tried again until it works.
"""

from aggregator.journal.journal import SNAPSHOT_FACTOR, Journal, JournalOptions
from aggregator.journal.replaying import Replay, carry_out
from aggregator.journal.sessions import REPEATS_NS

__all__ = ["REPEATS_NS", "SNAPSHOT_FACTOR", "Journal", "JournalOptions", "Replay", "carry_out"]
