#!/usr/bin/env python3
"""Fetches poems with a thread for each: fetch_threads.py [HOST:]PORT ...

The same blocking calls, each in a thread of its own: whoever waits holds up nobody else. The time is that of the slowest
poem; the price is a thread for each that is waited for, with its stack.
"""

import socket
import sys
import threading
import time


def fetch(address):
    """The poem of a server. It says all of it unasked, and closes: the end of the stream is the end of the poem."""
    host, _, port = address.rpartition(":")
    poem = bytearray()
    with socket.create_connection((host.strip("[]") or "127.0.0.1", int(port))) as connection:
        # Here this thread waits. The interpreter lets others run meanwhile.
        while piece := connection.recv(65536):
            poem += piece
    return bytes(poem)


def main(addresses):
    began = time.monotonic()
    failed = []

    def run(address):
        try:
            poem = fetch(address)
        except OSError as error:
            # A reset is one: what has come until then is not a poem.
            failed.append(address)
            print(f"{address}: {error}", file=sys.stderr)
        else:
            print(f"{address}: {len(poem)} bytes after {time.monotonic() - began:.3f} s")

    # Not a pool: the default one of concurrent.futures has a few threads for each processor, and the rest would queue.
    threads = [threading.Thread(target=run, args=[address]) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
