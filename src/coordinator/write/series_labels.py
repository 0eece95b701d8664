"""What the labels of a series of a request are to the aggregators and to storage: sorted, renamed, valid tags."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator import prompb
from coordinator.config.coordinator import TagOptionsConfig
from coordinator.write import kernels
from coordinator.write.attributes import Source, annotation_of, m3_type_of, prom_type_of, source_of
from coordinator.write.decoding import Decoded
from coordinator.write.options import BadRequestError, WriteOptions, apply_map_tags
from coordinator.write.outcome import FailedError
from m3metrics.ids import MAX_LITERAL_BYTES, Tags
from m3metrics.series_ids import normalized_tags, validate_tags
from m3x.protobuf import DecodeError

__all__ = ["SeriesLabels", "check_labels", "raise_attributes"]


class SeriesLabels:
    """By the tag options of a coordinator. ``store_type``: whether stores are told the type of a series."""

    def __init__(self, tags: TagOptionsConfig, store_type: bool) -> None:
        self._tags = tags
        self.store_type = store_type
        renames = {b"__name__": tags.metric_name.encode(), b"le": tags.bucket_name.encode()}
        self.renames = {old: new for old, new in renames.items() if old != new}
        """Labels that are called otherwise here."""
        self._spans = np.zeros((256, 4), np.int64)

    def labels(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> tuple[Tags, bytes]:
        """Sorted, valid tags of a series and the value of its ``__name__``. Raises ``IdError``."""
        at, size = int(row["labels_at"]), int(row["labels_size"])
        data = buf[at : at + size]
        found = kernels.label_spans(data, 0, size, self._spans)
        if found >= 0:
            text = data.tobytes()
            labels = [(text[a : a + n], text[b : b + m]) for a, n, b, m in self._spans[:found].tolist()]
        else:
            try:
                labels = prompb.labels_of(data.tobytes())
            except DecodeError as error:
                raise BadRequestError(error.reason) from error
        apply_map_tags(labels, options.map_tags)
        name = next((value for key, value in labels if key == b"__name__"), b"")
        graphite = int(row["source"]) == Source.GRAPHITE
        if self.renames:
            # Where tags of one name are allowed, these stand in front.
            labels.sort(key=lambda label: label[0] not in self.renames)
        tags = normalized_tags(((self.renames.get(key, key), value) for key, value in labels), graphite)
        allow_empty = graphite or self._tags.allow_tag_value_empty
        validate_tags(tags, self._tags.allow_tag_name_duplicates, allow_empty, graphite)
        return tags, name

    def annotation(self, row: Any, name: bytes) -> bytes:
        """Of the samples of a series whose types are in range."""
        if not self.store_type:
            return b""
        source, metric_type = source_of(int(row["source"])), m3_type_of(int(row["m3_type"]))
        return annotation_of(source, metric_type, prom_type_of(int(row["prom_type"])), name)


def check_labels(
    request: Decoded,
    key_at: NDArray[np.uint32],
    key_size: NDArray[np.uint32],
    rows: NDArray[np.int64],
) -> None:
    """The labels of ``rows`` are sound protobuf and short enough. Raises ``BadRequestError``."""
    status, row, name, value = kernels.check_labels(request.buf, key_at, key_size, rows, MAX_LITERAL_BYTES)
    if status != 0:
        raise BadRequestError(prompb.error_of(request.buf.tobytes()))
    if row >= 0:
        raise BadRequestError(
            f"label literal is too long: nameLength={name}, valueLength={value}, maxLength={MAX_LITERAL_BYTES}"
        )


def raise_attributes(row: Any) -> None:
    """Names what is out of range; the whole request fails, as in M3."""
    try:
        source_of(int(row["source"]))
        m3_type_of(int(row["m3_type"]))
        prom_type_of(int(row["prom_type"]))
    except ValueError as error:
        raise FailedError(str(error)) from error
