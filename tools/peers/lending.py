"""A library as *Using Asyncio in Python* has it, as a yardstick: Sanic and asyncpg, and a cache that is filled by reading and
by what the database announces.

Usage: lending.py DATABASE PORT ROWS, where ROWS is how many are kept
"""

import json
import sys
from collections import OrderedDict

import asyncpg
from sanic import Sanic
from sanic.response import json as reply

DATABASE, PORT, ROWS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = OrderedDict()
app = Sanic("lending")


def keep(number, row):
    cache[number] = row
    cache.move_to_end(number)
    if len(cache) > ROWS:
        cache.popitem(last=False)


def announced(_connection, _process, _channel, payload):
    change = json.loads(payload)
    data = change["data"]
    if change["type"] == "DELETE":
        cache.pop(change["id"], None)
    elif data and change["id"] in cache:
        keep(change["id"], data.get("new", data))


@app.before_server_start
async def connect(app, _loop):
    app.ctx.pool = await asyncpg.create_pool(DATABASE, min_size=32, max_size=32)
    app.ctx.listener = await asyncpg.connect(DATABASE)
    await app.ctx.listener.add_listener("chan_patron", announced)


@app.get("/patron/<number:int>")
async def get(_request, number):
    row = cache.get(number)
    if row is None:
        async with app.ctx.pool.acquire() as connection:
            found = await connection.fetchrow("SELECT * FROM patron WHERE id = $1", number)
        row = dict(found) if found else None
        keep(number, row)
    else:
        cache.move_to_end(number)
    return reply(row)


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=PORT, single_process=True, access_log=False, motd=False, debug=False)
