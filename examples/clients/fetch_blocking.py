#!/usr/bin/env python3
"""Fetches poems one after another: fetch_blocking.py [HOST:]PORT ...

While one poem trickles in, nobody hears the others. The time is the sum over all of them.
"""

import socket
import sys
import time


def fetch(address):
    """The poem of a server. It says all of it unasked, and closes: the end of the stream is the end of the poem."""
    host, _, port = address.rpartition(":")
    poem = bytearray()
    with socket.create_connection((host.strip("[]") or "127.0.0.1", int(port))) as connection:
        # Here the whole program waits.
        while piece := connection.recv(65536):
            poem += piece
    return bytes(poem)


def main(addresses):
    failed = 0
    began = time.monotonic()
    for address in addresses:
        try:
            poem = fetch(address)
        except OSError as error:
            # A reset is one: what has come until then is not a poem.
            failed += 1
            print(f"{address}: {error}", file=sys.stderr)
        else:
            print(f"{address}: {len(poem)} bytes after {time.monotonic() - began:.3f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
