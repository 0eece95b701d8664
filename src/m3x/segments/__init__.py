"""An append-only log of records in segment files, without knowledge of what the records mean.

Imports ``m3x.log`` and ``m3x.checksum`` only. Open ``log`` first (``SegmentLog``: append, roll, drop), then ``reader``; ``format`` has the
bytes, ``scan`` the records of one file, ``recovery`` what happens at opening, ``syncing`` the fsyncs, ``directory`` version and names,
``lock`` who owns it, ``cursor`` a value beside them, ``errors`` what can go wrong.

Theory of operation
-------------------
A log is a directory that one process owns. Records get *sequence numbers* and go into *segments*, files named by the sequence number of
their first record. A segment that has reached its size is complete: it is not written to any more, and goes as a whole when its records
are not needed any more. Every opening begins a new *run*: the numbers of its records begin at the run's number times 2**36, and the number
of the run is durable before its first record. So a number, and with it a position, is never used twice, even if a power cut takes records
that a reader had consumed: a position from before never hides a record from after.

A *position* is (segment, offset). Positions of one log order as its records do; ``Position(segment, 0)`` is before the first record of a
segment. A record is ``[start, end)``; ``end`` is what to wait for (``wait_durable``), to remember when the record is consumed
(``cursor``), to read on from (``reader``), to tell a backlog by (``size_from``) and to let go (``drop_through``). Readers may be in
other threads; everything else is called by one owner, one call at a time. A forked child must leave the log alone.

Segments stand alone. Owners that write definitions (of ids, say) once per segment compare ``next_segment`` before they compose a record:
when it has changed, the record is the first of a new segment and has to define anew what it uses; it stays the same when an append fails.
What applies to a whole segment can go into its *preamble*. A reader that begins in the middle of a segment begins at ``Position(segment,
0)`` and lets pass what it had. Where records in the middle of a segment cannot be read, the next one that can says how many are ``lost``
directly before it: definitions may be among them.

Durability is the owner's choice. ``os``: an appended record is in the page cache and survives the death of the process. ``interval`` and
``always``: a thread makes it durable, at most once per interval or as fast as it can, many appends at once; ``durable`` says how far it
has come, and ``wait_durable`` and ``on_durable`` tell it. The file's and the directory's fsync are both done by then. No fsync is made on
the owner's thread, except while a log is opened or closed, and in ``flush``.

How an owner uses it::

    with SegmentLog(path, sync="interval") as log:
        cursor = log.cursor("sink", Position)
        if log.next_segment != segment:  # before each record
            segment, defined = log.next_segment, set()
        end = log.append([definitions, rows]).end
        await log.wait_durable(end)  # then acknowledge
        reader = log.reader(Position(cursor.value.segment, 0) if cursor.value else START)
        for record in reader:  # whenever there may be more
            ...  # record.data up to cursor.value for its definitions only; its rows from there on
            cursor.write(record.end)  # and now and then: log.drop_through(record.end)

What can go wrong, and what happens:

=====================================  ==================================================================================
another process has the directory      ``DirectoryLocked`` names it
a version that is not known            ``VersionError`` names both; nothing is touched
disk full, I/O error at an append      ``AppendError``; what was written of the record is cut off; the next call tries again.
                                       A log can be opened, read and dropped from on a full disk
fsync fails                            ``trouble`` says so, ``durable`` stands still, bytes are written again until it works
a record that was not written to its   cut off at the next opening, and said
end (death of the process, power cut)
another end that cannot be read        cut off as well, and kept in ``{number}.segment.{offset}.damaged``
                                       (on a full disk it stays where it is, and is not read)
damage in the middle                   these records are skipped, counted and said; the others are read. When the segment
                                       would be deleted it is renamed ``….damaged``
a damaged or incomplete header         the segment is renamed ``….damaged`` at the next opening, and said
a segment is missing                   said, and reading goes on
other files in the directory           are left alone
=====================================  ==================================================================================

Nothing that cannot be read is ever returned: heads and data have checksums, and that of a head covers where it stands. They are zlib's
crc32, at 2.9 to 4.3 GB/s; for 32 KiB and more at once, where the processor multiplies without carry, the same at 14 (``m3x.checksum``).

A segment
---------
All numbers are little-endian. Header, then records, each padded with zeros to a multiple of 8 bytes.

======  ====  ================================================================================
offset  size  header
======  ====  ================================================================================
0       8     ``m3x.segm``
8       4     format version: 1
12      4     length of the preamble
16      8     salt: random
24      8     sequence number of the first record, the number of the segment
32      8     number of the segment before it; 0: none
40      8     sequence number behind the last record of that segment
48      8     when it was made: wall clock, nanoseconds since 1970
56      4     0
60      4     crc32 of the 60 bytes before and of the preamble
64            preamble
======  ====  ================================================================================

======  ====  ================================================================================
offset  size  record
======  ====  ================================================================================
0       4     ``f1 6d 33 1e``
4       4     length of the data, at most 2**28
8       8     sequence number
16      4     crc32 of the data
20      4     crc32 of: salt (8), offset of this record in the file (8), the 20 bytes before
24            data
======  ====  ================================================================================

When a head is damaged, the next one is looked for at multiples of 8; when only data is, its length leads to the next one.
"""

from m3x.segments.cursor import MAX_CURSOR, Cursor
from m3x.segments.errors import AppendError, DirectoryError, DirectoryLocked, SegmentError, VersionError
from m3x.segments.format import MAX_RECORD, Part, SegmentHeader
from m3x.segments.lock import DirectoryLock
from m3x.segments.log import SEGMENT_BYTES, Appended, Dropped, SegmentLog, SyncPolicy
from m3x.segments.reader import Reader, read_only
from m3x.segments.recovery import Segment
from m3x.segments.scan import START, Damage, Position, Record

__all__ = [
    "MAX_CURSOR",
    "MAX_RECORD",
    "SEGMENT_BYTES",
    "START",
    "AppendError",
    "Appended",
    "Cursor",
    "Damage",
    "DirectoryError",
    "DirectoryLock",
    "DirectoryLocked",
    "Dropped",
    "Part",
    "Position",
    "Reader",
    "Record",
    "Segment",
    "SegmentError",
    "SegmentHeader",
    "SegmentLog",
    "SyncPolicy",
    "VersionError",
    "read_only",
]
