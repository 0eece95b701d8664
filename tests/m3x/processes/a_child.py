"""``python -m tests.m3x.processes.a_child FILE ORDER``: a child that tells in a file what it is, and does what it is told."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.m3x.processes import preloaded

from m3x import log, process


def _found() -> dict[str, Any]:
    listed = os.listdir("/proc/self/fd")
    files = {
        int(number): os.readlink(f"/proc/self/fd/{number}")
        for number in listed
        if os.path.exists(f"/proc/self/fd/{number}")
    }
    return {
        "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "threads": process.threads(), "files": files,
        "arguments": sys.argv[1:], "loaded_by": preloaded.loaded_by, "command": Path("/proc/self/cmdline").read_text().split("\0")[:-1],
        "terminates": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "own_bytes": process.proportional_bytes(),
    }  # fmt: skip


def main(where: str, order: str) -> None:
    """Writes its file in one go."""
    fresh = Path(f"{where}.new")
    fresh.write_text(json.dumps(_found()))
    fresh.rename(where)
    match order.split(":"):
        case ["stay"]:
            time.sleep(3600)
        case ["fork"]:
            if os.fork():
                Path(f"{where}.forked").touch()
            time.sleep(3600)
        case ["end", code]:
            sys.exit(int(code))
        case ["say", text]:
            sys.exit(text)
        case ["fail"]:
            raise RuntimeError("told to fail")
        case ["log", text]:
            log.logger(__name__).error(text, exception=ValueError("told"))
            sys.exit(1)
        case ["kill", number]:
            os.kill(os.getpid(), int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
