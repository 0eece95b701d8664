"""What a node answers to a batch write: which elements it did not write, and why (docs/m3/m3db_wire.md, batch write)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m3db.errors import CallError, CallFailure, ErrorFlag, ErrorType, ThriftError
from m3db.thrift import unmarshal
from m3db.write.answer_kernels import ERROR, LEAST_ELEMENT_BYTES, ODD, read_errors
from m3db.write.requests import WRITE

__all__ = ["ElementErrors", "all_written", "element_errors"]

_FINE = b"\0"


@dataclass(slots=True, eq=False)
class ElementErrors:
    """The elements of one call that were not written; an element may be in it more than once."""

    body: bytes = field(repr=False)
    errors: NDArray[np.void]
    """``ERROR`` each: ``index`` is the position in the call."""

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def index(self) -> NDArray[np.int64]:
        """The positions of the elements in the call."""
        return self.errors["index"]

    @property
    def bad_request(self) -> NDArray[np.bool_]:
        """Whether the node would refuse it again."""
        return np.asarray(self.errors["type"] == ErrorType.BAD_REQUEST)

    @property
    def exhausted(self) -> NDArray[np.bool_]:
        """Whether a limit of the node is the reason."""
        return np.asarray(self.errors["flags"] & ErrorFlag.RESOURCE_EXHAUSTED != 0)

    def begin_with(self, text: bytes) -> NDArray[np.bool_]:
        """Whether the message of each begins so."""
        begins = self.errors["text_at"].tolist()
        found = np.fromiter((self.body.startswith(text, at) for at in begins), np.bool_, len(begins))
        return found & (self.errors["text_size"] >= len(text))

    def text(self, k: int) -> str:
        """The message of the k-th error."""
        at = int(self.errors["text_at"][k])
        return self.body[at : at + int(self.errors["text_size"][k])].decode(errors="backslashreplace")


_NONE = ElementErrors(b"", np.zeros(0, ERROR))


def all_written(code: int, body: bytes) -> bool:
    """Whether an answer says, in the usual way, that every element was written, however many there were. Else see ``element_errors``."""
    return code == 0 and body == _FINE


def element_errors(code: int, body: bytes, elements: int) -> ElementErrors:
    """Reads the answer to a call of so many elements.

    Raises ``CallError`` where it does not tell which elements were written: what it should have said may succeed later.
    """
    if all_written(code, body):
        return _NONE
    errors = np.empty(len(body) // LEAST_ELEMENT_BYTES, ERROR)
    count = read_errors(np.frombuffer(body or _FINE, np.uint8), errors)
    found = _plain(body) if count == ODD else ElementErrors(body, errors[:count])
    if code != 0 and not len(found):
        raise CallError(CallFailure.UNEXPECTED, f"an answer with code {code} that names no error")
    if len(found) and not (found.index.min() >= 0 and found.index.max() < elements):
        raise CallError(CallFailure.UNEXPECTED, f"errors of elements that are none of the {elements} of the call")
    return found


def _plain(body: bytes) -> ElementErrors:
    """As the plain codec reads it."""
    try:
        result = unmarshal(WRITE.result, body)
    except ThriftError as error:
        raise CallError(CallFailure.UNEXPECTED, str(error)) from error
    listed = result["err"]["errors"] if "err" in result else []
    errors, texts = np.empty(len(listed), ERROR), bytearray()
    for row, one in zip(errors, listed, strict=True):
        said = one["err"]
        row["index"], row["type"], row["flags"] = one["index"], said["type"], said["flags"]
        row["text_at"], row["text_size"] = len(texts), len(said["message"])
        texts += said["message"]
    return ElementErrors(bytes(texts), errors)
