"""A TCP relay between one instance and the KV, which can be cut: nothing gets through, nothing is closed, as in a partitioned network."""

import contextlib
import selectors
import socket
import threading

__all__ = ["Relay"]

_CHUNK = 1 << 16


class Relay:
    """Listens on loopback and passes every connection on to ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._through = threading.Event()
        self._through.set()
        self._end = threading.Event()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing passes; what was on its way is kept."""
        self._through.clear()

    def join(self) -> None:
        """Everything passes again, what was kept first."""
        self._through.set()

    def close(self) -> None:
        """Ends all connections."""
        self._end.set()
        self._through.set()
        self._thread.join(5)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            while not self._end.is_set():
                for key, _ in selector.select(0.05):
                    self._through.wait()
                    found = key.fileobj
                    assert isinstance(found, socket.socket)
                    if found is self._server:
                        self._accept(selector)
                    elif found in self._peers and not self._pass(found):
                        self._drop(selector, found)
        for one in [self._server, *self._peers]:
            one.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        made, _ = self._server.accept()
        try:
            onward = socket.create_connection(self._target, 1.0)
        except OSError:
            made.close()
            return
        self._peers[made], self._peers[onward] = onward, made
        for one in (made, onward):
            one.settimeout(5.0)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(one, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> bool:
        try:
            data = source.recv(_CHUNK)
            self._through.wait()
            self._peers[source].sendall(data)
        except OSError:
            return False
        return bool(data)

    def _drop(self, selector: selectors.BaseSelector, one: socket.socket) -> None:
        other = self._peers.pop(one)
        self._peers.pop(other, None)
        for each in (one, other):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(each)
            each.close()
