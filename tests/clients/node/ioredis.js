// ioredis through faults, as its users write it: `ioredis.js plain|cluster|sentinel NAME HOST:PORT...`
'use strict';

const { Redis, Cluster } = require('ioredis');
const { mode, name, nodes, expect, keys, movedTo, pause, start, within } = require('./story.js');

// Without a listener ioredis prints every error of a connection.
const heedless = (client) => client.on('error', () => {});

const plain = ({ host, port }) => heedless(new Redis(port, host));

function connect() {
  if (mode === 'plain') return plain(nodes[0]);
  if (mode === 'sentinel') return heedless(new Redis({ sentinels: nodes, name: 'main' }));
  return heedless(new Cluster(nodes));
}

// What the user of a plain client has to do: go where MOVED says. To a node that is gone ioredis reconnects when it is back.
function after(error, client) {
  const there = mode === 'plain' && movedTo(error);
  if (!there) return client;
  client.disconnect();
  return plain(there);
}

// What a pipeline or a transaction answered, without the places for errors; the first error is thrown.
function answers(results) {
  return results.map(([error, answer]) => {
    if (error) throw error;
    return answer;
  });
}

async function write(client, n) {
  const names = keys(n);
  if (names.length === 1) {
    await client.set(names[0], n);
  } else {
    const batch = n % 5 === 0 ? client.multi() : client.pipeline();
    names.forEach((key) => batch.set(key, n));
    expect('answers to a batch', answers(await batch.exec()), ['OK', 'OK']);
  }
}

async function tour(client) {
  const key = (word) => `{${name}}:tour:${word}`;

  expect('SET', await client.set(key('a'), '1'), 'OK');
  expect('SET NX', await client.set(key('a'), '2', 'NX'), null);
  expect('SET GET', await client.set(key('a'), '3', 'GET'), '1');
  expect('INCRBY', await client.incrby(key('a'), 39), 42);
  expect('INCRBYFLOAT', await client.incrbyfloat(key('a'), 0.5), '42.5');
  expect('APPEND', await client.append(key('a'), '!'), 5);
  expect('GETRANGE', await client.getrange(key('a'), 1, -1), '2.5!');
  expect('MSET', await client.mset(key('b'), 'ä\r\n', key('c'), ''), 'OK');
  expect('MGET', await client.mget(key('b'), key('c'), key('none')), ['ä\r\n', '', null]);
  expect('TYPE', await client.type(key('a')), 'string');
  expect('EXISTS', await client.exists(key('a'), key('none')), 1);
  expect('RENAME', await client.rename(key('a'), key('d')), 'OK');
  expect('GETDEL', await client.getdel(key('d')), '42.5!');
  expect('DEL', await client.del(key('b'), key('c'), key('d')), 2);
  const big = 'x'.repeat(300_000);
  await client.set(key('big'), big);
  expect('a large value', (await client.get(key('big'))) === big, true);

  expect('SET EX', await client.set(key('e'), '1', 'EX', 100), 'OK');
  const left = await client.ttl(key('e'));
  expect('TTL', left >= 90 && left <= 100, true);
  expect('PERSIST', await client.persist(key('e')), 1);
  expect('TTL of what stays', await client.ttl(key('e')), -1);
  expect('PEXPIRE', await client.pexpire(key('e'), 40), 1);
  const gone = async () => { while ((await client.get(key('e'))) !== null) await pause(5); };
  await within(5000, 'end of a key whose time is over', gone());

  const four = (batch) => batch.set(key('p'), '1').incr(key('p')).get(key('p')).del(key('p')).exec();
  expect('a pipeline', answers(await four(client.pipeline())), ['OK', 2, '2', 1]);
  expect('a transaction', answers(await four(client.multi())), ['OK', 2, '2', 1]);
  if (mode !== 'cluster') {
    await client.set(key('w'), '0');
    await client.watch(key('w'));
    await client.set(key('w'), 'changed since');
    expect('WATCH', await client.multi().set(key('w'), 'mine').exec(), null);
    const [role] = await client.role();
    expect('ROLE', ['master', 'slave'].includes(role), true);
    expect('INFO', /role:(\w+)\r\n/.exec(await client.info('replication'))[1], role);
    expect('CLIENT SETNAME', await client.client('SETNAME', name), 'OK');
  }

  await client.set(key('text'), 'text');
  const failed = await client.incr(key('text')).catch((error) => error.message);
  expect('INCR of a text', failed, 'ERR value is not an integer or out of range');

  const wanted = Array.from({ length: 60 }, (_, i) => key(`scan:${i}`));
  await client.mset(wanted.flatMap((word) => [word, '1']));
  const found = new Set();
  for (const node of mode === 'cluster' ? client.nodes('master') : [client]) {
    for await (const page of node.scanStream({ match: key('scan:*'), count: 10 })) page.forEach((word) => found.add(word));
  }
  expect('SCAN', [...found].sort(), wanted.sort());

  const listener = heedless(client.duplicate());
  const message = new Promise((resolve) => listener.on('message', (_, text) => resolve(text)));
  await listener.subscribe(`news:${name}`);
  await client.publish(`news:${name}`, 'hello');
  expect('a message', await within(5000, 'message', message), 'hello');
  listener.disconnect();
}

start({
  library: `ioredis ${require('ioredis/package.json').version}`,
  connect, tour, write, after,
  get: (client, key) => client.get(key),
  mget: (client, names) => client.mget(names),
  close: (client) => client.disconnect(),
});
