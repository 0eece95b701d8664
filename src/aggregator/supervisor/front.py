"""What a front is told of the configuration."""

import msgspec

from aggregator.config import ServiceConfig
from aggregator.front.options import FrontOptions, RawOptions
from aggregator.front.secure import FrontTLS

__all__ = ["front_options"]


def front_options(
    config: ServiceConfig, *, run_dir: str, epoch: int, parent_pid: int, listener: int, workers: int
) -> FrontOptions:
    """``listener``: descriptor of the socket for the first one of ``listen_addresses``; those of the others follow."""
    m3msg, raw = config.server, None
    if (rawtcp := config.rawtcp) is not None:
        raw = RawOptions(
            listener=listener if m3msg is None else listener + 1,
            max_record_bytes=rawtcp.protobuf_iterator.max_message_size,
            tls=FrontTLS.of(rawtcp.tls),
            keep_alive=rawtcp.keep_alive_enabled,
            keep_alive_period_ns=int(rawtcp.keep_alive_period),
        )
    options = FrontOptions(
        listener=-1, raw=raw, run_dir=run_dir, epoch=epoch, parent_pid=parent_pid, log_level=config.logging.level,
        workers=workers,
    )  # fmt: skip
    if m3msg is None:
        return options
    return msgspec.structs.replace(
        options,
        listener=listener,
        max_frame_bytes=m3msg.consumer.decoder.max_message_size,
        tls=FrontTLS.of(m3msg.server.tls),
        keep_alive=m3msg.server.keep_alive_enabled,
        keep_alive_period_ns=int(m3msg.server.keep_alive_period),
    )
