"""Pipelines of a million commands with redis-py, which writes all of a pipeline before it reads: HOST PORT."""

import sys

import redis

COMMANDS = 1_000_000


def main():
    client = redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), socket_timeout=300)

    # By default a pipeline is one transaction.
    pipeline = client.pipeline()
    for i in range(COMMANDS):
        pipeline.set(f"py:{i}", i)
    assert pipeline.execute() == [True] * COMMANDS
    assert client.get(f"py:{COMMANDS - 1}") == str(COMMANDS - 1).encode()

    client.delete("py:n")
    pipeline = client.pipeline(transaction=False)
    for _ in range(COMMANDS):
        pipeline.incr("py:n")
    assert pipeline.execute() == list(range(1, COMMANDS + 1))

    value = b"v" * 1_000
    client.set("py:large", value)
    pipeline = client.pipeline(transaction=False)
    for _ in range(COMMANDS // 2):
        pipeline.get("py:large")
    assert pipeline.execute() == [value] * (COMMANDS // 2)


main()
