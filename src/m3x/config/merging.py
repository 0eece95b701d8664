"""Several files as one tree (docs/m3/aggregation.md, loading)."""

from m3x.config.document import Node, kind_of
from m3x.config.places import Problem

__all__ = ["merge"]


def merge(old: Node, new: Node, problems: list[Problem], path: str = "") -> Node:
    """``old`` with what a later file says: mappings key by key, everything else is replaced, by nothing (null) too.

    A mapping, a list and a scalar do not replace each other.
    """
    if old.value is None or new.value is None:
        return new
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        merged = dict(old.value)
        for key, node in new.value.items():
            before = merged.get(key)
            if before is None:
                merged[key] = node
                continue
            where = f"{path}.{key}" if path else key
            if type(before.key) is not type(node.key):
                text = f"{where}: the key is {kind_of(node.key)} here, and {kind_of(before.key)} in {before.file}:{before.line}"
                problems.append(Problem(node.file, node.line, text))
            merged[key] = merge(before, node, problems, where)
        return Node(merged, new.file, new.line, key=new.key)
    if _shape(old) != _shape(new):
        text = f"{path}: {_shape(new)} cannot replace {_shape(old)}, which is in {old.file}:{old.line}"
        problems.append(Problem(new.file, new.line, text))
    return new


def _shape(node: Node) -> str:
    return kind_of(node.value) if isinstance(node.value, dict | list) else "a single value"
