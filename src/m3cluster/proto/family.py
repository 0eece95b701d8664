"""The family of the messages that KV holds: written by gogo/protobuf's generator, as those of metrics are."""

import dataclasses

from m3x.protobuf import GENERATED, Field, Message

__all__ = ["STORED", "stored"]

STORED = dataclasses.replace(GENERATED, defaults=True, ranges=True)
"""As in M3, but for what is done with a message here: every field is in what is read, and numbers must fit into their types."""


def stored(name: str, fields: tuple[Field, ...]) -> Message:
    """A message that KV holds, or a part of one."""
    return Message(name, fields, STORED)
