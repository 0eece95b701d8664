"""A worker without an engine: acks whatever comes, and shows the stream it got to whoever bound its supervisor socket.

``fake_worker.py RUN_DIR WORKER FRONT_EPOCH WORKER_EPOCH [quiet]``
"""

import os
import sys

import numpy as np
import zmq

from aggregator import ipc
from m3msg.kernels import ack_size_bound, build_acks, scan_frames
from m3msg.rows import FRAME_ROW
from m3x.process import die_with_parent

MAX_FRAME = 4 << 20


def acks_of(payload: np.ndarray, sizes: list[int], rows: np.ndarray, out: np.ndarray) -> tuple[list[int], int]:
    """Ack frames of all connections of a batch, written to ``out``; their sizes, and the bytes in all."""
    at, end, ack_sizes = 0, 0, []
    for size in sizes:
        count, _, _ = scan_frames(payload, at, at + size, MAX_FRAME, rows)
        written = build_acks(payload, rows, count, out, end, MAX_FRAME)
        ack_sizes.append(written - end)
        at, end = at + size, written
    return ack_sizes, end


def main() -> None:
    die_with_parent(os.getppid())
    run_dir, worker, front, epoch = sys.argv[1], *map(int, sys.argv[2:5])
    quiet = sys.argv[5:] == ["quiet"]
    context = zmq.Context()
    data, acks, sup = context.socket(zmq.PULL), context.socket(zmq.PUSH), context.socket(zmq.PAIR)
    data.set_hwm(0)
    acks.set_hwm(0)
    data.connect(ipc.data_address(run_dir, worker, front, epoch))
    acks.connect(ipc.acks_address(run_dir, worker, front, epoch))
    sup.connect(ipc.worker_address(run_dir, worker, front, epoch))
    sup.send(ipc.encode(ipc.Ready(worker, os.getpid())))
    rows = np.zeros(1 << 20, FRAME_ROW)
    payloads = ipc.Payloads(run_dir, front)
    while True:
        frames = data.recv_multipart(copy=False)
        header = ipc.decode_to_worker(frames[0].buffer)
        payload = payloads.of(header, [f.buffer for f in frames[1:]])
        if not quiet:
            sup.send_multipart([frames[0].bytes, payload.tobytes()])
        if isinstance(header, ipc.Batch):
            out = np.empty(ack_size_bound(len(payload) // 4) if len(payload) < 1 << 16 else len(payload), np.uint8)
            sizes, end = acks_of(payload, header.sizes, rows, out)
            acks.send(ipc.encode(ipc.Acked(header.seq, len(payload), sizes, out[:end].data)))
        elif isinstance(header, ipc.Goodbye):
            break
    context.destroy(linger=1000)


if __name__ == "__main__":
    main()
