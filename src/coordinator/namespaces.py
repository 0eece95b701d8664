"""The namespaces of storage as they are now: those of the file, or those of M3DB's registry, which come and go."""

from collections.abc import Callable, Sequence

from coordinator.config import Namespace

__all__ = ["NamespacesNow"]


class NamespacesNow:
    """``current`` is what there is; ``fixed``: nothing will change it."""

    def __init__(self, namespaces: Sequence[Namespace] = (), *, fixed: bool = True) -> None:
        self.fixed = fixed
        self.current = tuple(namespaces)
        self.known = fixed
        """Whether it has been heard of them at all."""
        self._listeners: list[Callable[[], None]] = []

    def follow(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after every change."""
        self._listeners.append(listener)

    def put(self, namespaces: Sequence[Namespace]) -> None:
        """These are the namespaces from now on."""
        if self.known and tuple(namespaces) == self.current:
            return
        self.current, self.known = tuple(namespaces), True
        for listener in self._listeners:
            listener()
