#!/usr/bin/env python3
"""Fetches poems with one thread and a task for each: fetch_asyncio.py [HOST:]PORT ...

The event loop waits for all sockets at once, in one call, and goes on with the task whose socket has something. The time is
that of the slowest poem, and there is one thread.
"""

import asyncio
import sys
import time


async def fetch(address):
    """The poem of a server. It says all of it unasked, and closes: the end of the stream is the end of the poem."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]") or "127.0.0.1", int(port))
    try:
        # Here this task waits, and the loop goes on with another one.
        return await reader.read()
    finally:
        writer.close()


async def run(address, began):
    try:
        poem = await fetch(address)
    except OSError as error:
        # A reset is one: what has come until then is not a poem.
        print(f"{address}: {error}", file=sys.stderr)
        return False
    print(f"{address}: {len(poem)} bytes after {time.monotonic() - began:.3f} s")
    return True


async def main(addresses):
    began = time.monotonic()
    arrived = await asyncio.gather(*(run(address, began) for address in addresses))
    return 0 if all(arrived) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
