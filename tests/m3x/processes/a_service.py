"""``python -m tests.m3x.processes.a_service FOLDER [THREAD]``: a service with a zygote forked from it and two children that are kept alive.

It ends in order on SIGTERM. ``THREAD``: it has a second thread from the beginning.
"""

import asyncio
import signal
import sys
import threading
from pathlib import Path

from m3x.processes import Child, Launch, Zygote

CHILDREN = ("a", "b")


async def _serve(zygote: Zygote, folder: Path) -> None:
    def launch(name: str, epoch: int) -> Launch:
        return Launch("tests.m3x.processes.a_child", [str(folder / f"{name}-{epoch}"), "stay"])

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with zygote:
        kept = [Child(name, zygote, lambda epoch, name=name: launch(name, epoch), lambda *_: None) for name in CHILDREN]
        async with asyncio.TaskGroup() as tasks:
            for child in kept:
                tasks.create_task(child.run())
            await stopping.wait()
            for child in kept:
                child.terminate()


def main(folder: str, *thread: str) -> None:
    """The zygote comes first."""
    if thread:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    zygote = Zygote("tests.m3x.processes.preloaded")
    zygote.fork()
    asyncio.run(_serve(zygote, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
