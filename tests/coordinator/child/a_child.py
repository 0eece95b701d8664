"""A program that does as it is told: ``python -m … FILE [--fail] --child-of PID``. It writes its pid to FILE, ignores signals, and ends
with the end of its standard input."""

import signal
import sys
from pathlib import Path

file, *_ = sys.argv[1:]
with Path(file).open("a", encoding="utf-8") as out:
    out.write(f"{sys.argv[-1]}\n")
if "--fail" in sys.argv:
    sys.exit(7)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
while sys.stdin.buffer.read(1):
    pass
