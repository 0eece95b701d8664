"""What runs inside a zygote: a process of one thread that has loaded everything, waits for orders, and forks.

    service ──order, descriptors──> zygote ──fork──> go-between ──fork──> child
                                                     ends at once         falls to the service, and speaks to it over its channel

The service is the nearest *subreaper* above (prctl(2)), so a child whose go-between has ended is the service's own: its death tells the
service, not the zygote, and it ends with the service. It says its pid over the channel, which is the first of the descriptors, and waits
for the answer. A channel that closes instead ends it: nobody would know of it. So a zygote that dies at whatever moment leaves
nothing behind, and the service needs no word from it: a channel that closes without a pid is an order that was not carried out.
The child keeps its channel: a failure that ends it is the last thing that it says there.

A child runs a module as ``python -m`` would, with what was loaded, and in a session of its own. The further descriptors are its 3, 4, …;
it has no others but the channel.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from m3x import log, process
from m3x.diagnosis import stacks

__all__ = ["FIRST_FILE", "GO", "Order", "command_line", "load", "serve"]

FIRST_FILE = 3
"""The first of the descriptors that a child is given, as in sd_listen_fds(3)."""
GO = b"go"
_ORDER_BYTES = 1 << 16
_MOST_FILES = 16
_ALL_FILES = 1 << 20
_LAST_WORDS = 1 << 10
"""Characters of a failure that are told."""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a child is to run."""

    module: str
    arguments: list[str]


def command_line(module: str, arguments: Sequence[str]) -> list[str]:
    """How ``ps`` shows a process that runs a module."""
    return [sys.executable, "-m", module, *arguments]


def load(preload: str) -> None:
    """Calls ``load()`` of a module, and takes all that is there out of the garbage collector, which would write to shared memory."""
    gc.disable()
    importlib.import_module(preload).load()
    process.unmap_code()
    gc.freeze()
    gc.enable()


def serve(link: socket.socket, parent: int, preload: str) -> NoReturn:
    """Carries out orders until the other end of ``link`` closes; ``parent`` is the service's pid, ``preload`` what was loaded."""
    code = 1
    try:
        process.die_with_parent(parent)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Whoever ends the service by signals to all of its processes means the service, which ends its children in order.
            signal.signal(number, signal.SIG_IGN)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.closerange(FIRST_FILE, link.fileno())
        os.closerange(link.fileno() + 1, _ALL_FILES)
        process.set_command_line(command_line(__package__, [preload]))
        while True:
            data, files, flags, _ = socket.recv_fds(link, _ORDER_BYTES, _MOST_FILES)
            if not data:
                break
            try:
                if flags & socket.MSG_CTRUNC:
                    _say("cannot fork: too many open files")
                else:
                    _fork(msgspec.msgpack.decode(data, type=Order), files, link, parent)
            finally:
                for file in files:
                    os.close(file)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _fork(order: Order, files: list[int], link: socket.socket, parent: int) -> None:
    """Returns in the zygote only. Where there is no room for a further process, the order is not carried out."""
    try:
        go_between = os.fork()
    except OSError as error:
        _say(f"cannot fork: {error}")
        return
    if go_between:
        os.waitpid(go_between, 0)
        return
    go_between = os.getpid()
    if os.fork():
        os._exit(0)
    link.close()
    os.setsid()
    _wait_for_end(go_between)
    process.die_with_parent(parent)
    _become(order, files)


def _say(text: str) -> None:
    # Whoever reads that may have gone, and its disk may be full.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _become(order: Order, files: list[int]) -> NoReturn:
    """The child, once the service is its parent."""
    wanted = False
    channel = socket.socket(fileno=files[0])
    with contextlib.suppress(ConnectionError):
        channel.send(b"%d" % os.getpid())
        wanted = channel.recv(len(GO)) == GO
    if not wanted:
        os._exit(1)
    channel = _place(files[1:], channel)
    stacks.register_child()
    process.set_command_line(command_line(order.module, order.arguments))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code, failure = _run(order)
    if failure:
        with contextlib.suppress(OSError):
            channel.send(failure[-_LAST_WORDS:].encode(errors="replace"), socket.MSG_DONTWAIT)
    os._exit(code)


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        select.select([descriptor], [], [])
        os.close(descriptor)


def _place(files: Sequence[int], channel: socket.socket) -> socket.socket:
    """Gives descriptors their numbers, the one behind them to the channel, and closes all others."""
    everything = [*files, channel.detach()]
    beyond = FIRST_FILE + len(everything)
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, beyond) for file in everything]
    for number, file in enumerate(aside, FIRST_FILE):
        os.dup2(file, number, inheritable=False)
    os.closerange(beyond, _ALL_FILES)
    return socket.socket(fileno=beyond - 1)


def _run(order: Order) -> tuple[int, str]:
    """Returns the exit code, and what failed; empty: nothing did."""
    failure = ""
    sys.argv = [order.module, *order.arguments]
    try:
        runpy.run_module(order.module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            failure = end.code
            _say(failure)
        elif code:
            failure = log.last_error()
    except BaseException as error:
        failure = "".join(traceback.format_exception_only(error)).strip()
        _say(traceback.format_exc().rstrip("\n"))
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code, failure
