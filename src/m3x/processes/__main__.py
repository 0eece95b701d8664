"""``python -m m3x.processes PRELOAD --link FD --parent PID``: a zygote that shares no memory with the service."""

import argparse
import socket
from typing import NoReturn

from m3x.processes.forking import load, serve


def main() -> NoReturn:
    """Loads, and waits for orders."""
    parser = argparse.ArgumentParser(prog="m3x.processes", description=__doc__)
    parser.add_argument("preload", help="module with load()")
    parser.add_argument("--link", required=True, type=int, help="descriptor of the socket that orders come through")
    parser.add_argument("--parent", required=True, type=int, help="pid of the service")
    arguments = parser.parse_args()
    load(arguments.preload)
    serve(socket.socket(fileno=arguments.link), arguments.parent, arguments.preload)


if __name__ == "__main__":
    main()
