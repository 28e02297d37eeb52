"""redis-py through faults, as its users write it: `redis_py.py sync|asyncio plain|cluster|sentinel NAME HOST:PORT...`

One text for both ways to call it: `call` awaits what has to be awaited. See story.py for what is printed.
"""

import asyncio
import inspect
import re
import sys

import redis
import redis.asyncio
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, ResponseError, TimeoutError, WatchError

from story import BATCH, PACE, deadline, expect, expect_fresh, finishing, keys, listen, one_line, say

API, MODE, NAME = sys.argv[1:4]
NODES = [(node.rsplit(":", 1)[0], int(node.rsplit(":", 1)[1])) for node in sys.argv[4:]]
MAJOR = int(redis.__version__.split(".")[0])
MODULE = redis.asyncio if API == "asyncio" else redis


async def call(result):
    return await result if inspect.isawaitable(result) else result


async def close(closable):
    await call(closable.aclose() if API == "asyncio" else closable.close())


def plain(host, port):
    return MODULE.Redis(host=host, port=port, decode_responses=True)


async def connect():
    if MODE == "cluster":
        node = MODULE.cluster.ClusterNode
        client = MODULE.RedisCluster(startup_nodes=[node(host, port) for host, port in NODES], decode_responses=True)
        return await client.initialize() if API == "asyncio" else client
    if MODE == "sentinel":
        return MODULE.sentinel.Sentinel(NODES).master_for("main", decode_responses=True)
    return plain(*NODES[0])


async def after(error, client):
    """What the user of a plain client has to do: go where MOVED says, and to another node when one does not answer."""
    if MODE != "plain":
        return client
    # redis-py 5 has no class for it, and the errors of pipelines put their own words around it.
    moved = re.search(r"\b\d+ ([^\s'\"]+):(\d+)", str(error)) if isinstance(error, ResponseError) else None
    if moved:
        there = moved[1], int(moved[2])
    elif isinstance(error, (ConnectionError, TimeoutError)):
        at = client.connection_pool.connection_kwargs
        there = NODES[(NODES.index((at["host"], at["port"])) + 1) % len(NODES)]
    else:
        return client
    await close(client)
    return plain(*there)


async def write(client, n):
    names = keys(NAME, n)
    if len(names) == 1:
        await call(client.set(names[0], n))
        return
    # Clients of clusters had no transactions before redis-py 6.
    transaction = n % 5 == 0 and (MODE != "cluster" or MAJOR >= 6)
    pipe = client.pipeline(transaction=True) if transaction else not_atomic(client)
    for name in names:
        pipe.set(name, n)
    expect("answers to a batch", done(await call(pipe.execute())), [True, True])


def done(answers):
    """Of a transaction, the client of clusters gives answers as they came, other clients True for OK."""
    return [answer == "OK" or answer for answer in answers]


def not_atomic(client):
    return client.pipeline() if MODE == "cluster" else client.pipeline(transaction=False)


async def tour(client):
    """Everything once; what is not as it should be is said."""
    key = "{%s}:tour:" % NAME

    expect("SET", await call(client.set(key + "a", "1")), True)
    expect("SET NX", await call(client.set(key + "a", "2", nx=True)), None)
    expect("SET GET", await call(client.set(key + "a", "3", get=True)), "1")
    expect("INCRBY", await call(client.incrby(key + "a", 39)), 42)
    expect("INCRBYFLOAT", await call(client.incrbyfloat(key + "a", 0.5)), 42.5)
    expect("APPEND", await call(client.append(key + "a", "!")), 5)
    expect("GETRANGE", await call(client.getrange(key + "a", 1, -1)), "2.5!")
    expect("MSET", await call(client.mset({key + "b": "ä\r\n", key + "c": ""})), True)
    expect("MGET", await call(client.mget([key + "b", key + "c", key + "none"])), ["ä\r\n", "", None])
    expect("TYPE", await call(client.type(key + "a")), "string")
    expect("EXISTS", await call(client.exists(key + "a", key + "none")), 1)
    expect("RENAME", await call(client.rename(key + "a", key + "d")), True)
    expect("GETDEL", await call(client.getdel(key + "d")), "42.5!")
    expect("DEL", await call(client.delete(key + "b", key + "c", key + "d")), 2)
    big = "x" * 300_000
    await call(client.set(key + "big", big))
    expect("a large value", await call(client.get(key + "big")) == big, True)

    expect("SET EX", await call(client.set(key + "e", "1", ex=100)), True)
    expect("TTL", await call(client.ttl(key + "e")) in range(90, 101), True)
    expect("PERSIST", await call(client.persist(key + "e")), True)
    expect("TTL of what stays", await call(client.ttl(key + "e")), -1)
    expect("PEXPIRE", await call(client.pexpire(key + "e", 40)), True)
    in_time = deadline(5)
    while await call(client.get(key + "e")) is not None:
        expect("a key is gone when its time is over", in_time(), True)

    pipe = not_atomic(client)
    pipe.set(key + "p", "1").incr(key + "p").get(key + "p").delete(key + "p")
    expect("a pipeline", await call(pipe.execute()), [True, 2, "2", 1])
    if MODE != "cluster" or MAJOR >= 6:
        pipe = client.pipeline(transaction=True)
        pipe.set(key + "t", "1").incr(key + "t").get(key + "t").delete(key + "t")
        expect("a transaction", done(await call(pipe.execute())), [True, 2, "2", 1])
    if MODE != "cluster":
        pipe = client.pipeline()
        await call(pipe.watch(key + "w"))
        await call(client.set(key + "w", "somebody else"))
        pipe.multi()
        pipe.set(key + "w", "me")
        try:
            say("wrong WATCH:", await call(pipe.execute()))
        except WatchError:
            pass
        await call(pipe.reset())
        role = (await call(client.role()))[0]
        role = role.decode() if isinstance(role, bytes) else role
        expect("ROLE", role in ("master", "slave"), True)
        expect("INFO", (await call(client.info("replication")))["role"], role)
        expect("CLIENT SETNAME", await call(client.client_setname(NAME)), True)

    try:
        await call(client.set(key + "text", "text"))
        say("wrong INCR of a text:", await call(client.incr(key + "text")))
    except ResponseError as error:
        expect("INCR of a text", str(error), "value is not an integer or out of range")

    wanted = {f"{key}scan:{i}" for i in range(60)}
    await call(client.mset({name: "1" for name in wanted}))
    found = client.scan_iter(match=key + "scan:*", count=10)
    found = {name async for name in found} if API == "asyncio" else set(found)
    expect("SCAN", found, wanted)

    # redis-py 5 has no publish/subscribe for its asynchronous client of clusters.
    if hasattr(client, "pubsub"):
        listener = client.pubsub()
        await call(listener.subscribe("news:" + NAME))
        await next_of(listener, "subscribe")
        await call(client.publish("news:" + NAME, "hello"))
        message = await next_of(listener, "message")
        expect("a message", message and message["data"], "hello")
        await close(listener)


async def next_of(listener, kind):
    in_time = deadline(5)
    while in_time():
        message = await call(listener.get_message(timeout=1))
        if message and message["type"] == kind:
            return message
    say("wrong no", kind, "came")
    return None


async def verify(client, acked):
    for start in range(0, len(acked), BATCH):
        names = {name: str(n) for n in acked[start : start + BATCH] for name in keys(NAME, n)}
        found = await call(client.mget(list(names)))
        for (name, wanted), got in zip(names.items(), found):
            expect(f"lost {name}", got, wanted)
    say("verified", len(acked))


async def main():
    listen()
    say("library redis-py", redis.__version__)
    client = await connect()
    await tour(client)
    say("ready")
    acked, n = [], 0
    while not finishing.is_set():
        n += 1
        try:
            await write(client, n)
            acked.append(n)
            say("acked", n)
            expect_fresh("a read", await call(client.get(keys(NAME, n)[0])), str(n))
        except (RedisError, RedisClusterException) as error:
            say("error", n, one_line(error))
            client = await after(error, client)
        await asyncio.sleep(PACE)
    await tour(client)
    await verify(client, acked)
    await close(client)


asyncio.run(main())
