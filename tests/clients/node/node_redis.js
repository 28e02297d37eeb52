// node-redis through faults, as its users write it: `node_redis.js plain|cluster|sentinel NAME HOST:PORT...`
'use strict';

const redis = require('redis');
const { mode, name, nodes, expect, keys, movedTo, pause, start, within } = require('./story.js');

const version = require('redis/package.json').version;
const old = version.startsWith('4.');
const url = ({ host, port }) => `redis://${host}:${port}`;

// Without a listener an error of the connection would end the process; node-redis reconnects by itself.
const heedless = (client) => client.on('error', () => {});

const plain = (node) => heedless(redis.createClient({ url: url(node) })).connect();

async function connect() {
  if (mode === 'plain') return plain(nodes[0]);
  if (mode === 'sentinel') return heedless(redis.createSentinel({ name: 'main', sentinelRootNodes: nodes })).connect();
  const cluster = heedless(redis.createCluster({ rootNodes: nodes.map((node) => ({ url: url(node) })) }));
  await cluster.connect();
  return cluster;
}

// What the user of a plain client has to do: go where MOVED says. To a node that is gone node-redis reconnects when it is back.
async function after(error, client) {
  const there = mode === 'plain' && movedTo(error);
  if (!there) return client;
  client.disconnect?.();
  return plain(there);
}

async function write(client, n) {
  const names = keys(n);
  if (names.length === 1) {
    await client.set(names[0], String(n));
  } else if (n % 5 === 0) {
    const transaction = client.multi();
    names.forEach((key) => transaction.set(key, String(n)));
    expect('answers to a transaction', await transaction.exec(), ['OK', 'OK']);
  } else {
    // Commands of one tick travel in one pipeline.
    expect('answers to a pipeline', await Promise.all(names.map((key) => client.set(key, String(n)))), ['OK', 'OK']);
  }
}

async function tour(client) {
  const key = (word) => `{${name}}:tour:${word}`;

  expect('SET', await client.set(key('a'), '1'), 'OK');
  expect('SET NX', await client.set(key('a'), '2', { NX: true }), null);
  expect('SET GET', await client.set(key('a'), '3', { GET: true }), '1');
  expect('INCRBY', await client.incrBy(key('a'), 39), 42);
  expect('INCRBYFLOAT', Number(await client.incrByFloat(key('a'), 0.5)), 42.5);
  expect('APPEND', await client.append(key('a'), '!'), 5);
  expect('GETRANGE', await client.getRange(key('a'), 1, -1), '2.5!');
  expect('MSET', await client.mSet([[key('b'), 'ä\r\n'], [key('c'), '']]), 'OK');
  expect('MGET', await client.mGet([key('b'), key('c'), key('none')]), ['ä\r\n', '', null]);
  expect('TYPE', await client.type(key('a')), 'string');
  expect('EXISTS', await client.exists([key('a'), key('none')]), 1);
  expect('RENAME', await client.rename(key('a'), key('d')), 'OK');
  expect('GETDEL', await client.getDel(key('d')), '42.5!');
  expect('DEL', await client.del([key('b'), key('c'), key('d')]), 2);
  const big = 'x'.repeat(300_000);
  await client.set(key('big'), big);
  expect('a large value', (await client.get(key('big'))) === big, true);

  expect('SET EX', await client.set(key('e'), '1', { EX: 100 }), 'OK');
  const left = await client.ttl(key('e'));
  expect('TTL', left >= 90 && left <= 100, true);
  expect('PERSIST', Number(await client.persist(key('e'))), 1);
  expect('TTL of what stays', await client.ttl(key('e')), -1);
  expect('PEXPIRE', Number(await client.pExpire(key('e'), 40)), 1);
  const gone = async () => { while ((await client.get(key('e'))) !== null) await pause(5); };
  await within(5000, 'end of a key whose time is over', gone());

  const pipeline = ['SET', 'INCR', 'GET', 'DEL'];
  const answers = [client.set(key('p'), '1'), client.incr(key('p')), client.get(key('p')), client.del(key('p'))];
  expect(`a pipeline of ${pipeline}`, await Promise.all(answers), ['OK', 2, '2', 1]);
  const transaction = client.multi().set(key('t'), '1').incr(key('t')).get(key('t')).del(key('t'));
  expect('a transaction', await transaction.exec(), ['OK', 2, '2', 1]);
  if (mode === 'plain') {
    await client.set(key('w'), '0');
    await client.watch(key('w'));
    await client.set(key('w'), 'changed since');
    const outcome = await client.multi().set(key('w'), 'mine').exec().then(JSON.stringify, (error) => error.constructor.name);
    expect('WATCH', outcome, 'WatchError');
    const { role } = await client.role();
    expect('ROLE', ['master', 'slave'].includes(role), true);
    expect('INFO', /role:(\w+)\r\n/.exec(await client.info('replication'))[1], role);
    expect('CLIENT SETNAME', await client.clientSetName(name), 'OK');
  }

  await client.set(key('text'), 'text');
  const failed = await client.incr(key('text')).catch((error) => error.message);
  expect('INCR of a text', failed, 'ERR value is not an integer or out of range');

  const wanted = Array.from({ length: 60 }, (_, i) => key(`scan:${i}`));
  await client.mSet(wanted.map((word) => [word, '1']));
  const found = new Set();
  // Version 4 iterates over keys, later ones over pages of keys. A client of a cluster scans each master.
  const scanned = mode === 'cluster' ? await Promise.all(client.masters.map((node) => client.nodeClient(node))) : [client];
  for (const node of mode === 'sentinel' ? [] : scanned) {
    for await (const page of node.scanIterator({ MATCH: key('scan:*'), COUNT: 10 })) [].concat(page).forEach((word) => found.add(word));
  }
  if (mode !== 'sentinel') expect('SCAN', [...found].sort(), wanted.sort());

  const listener = mode === 'sentinel' ? client : client.duplicate ? heedless(client.duplicate()) : client;
  if (listener !== client) await listener.connect();
  let heard;
  const message = new Promise((resolve) => (heard = resolve));
  await listener.subscribe(`news:${name}`, (text) => heard(text));
  await client.publish(`news:${name}`, 'hello');
  expect('a message', await within(5000, 'message', message), 'hello');
  await listener.unsubscribe(`news:${name}`);
  if (listener !== client) await listener.disconnect();
}

start({
  library: `node-redis ${version}`,
  connect, tour, write, after,
  get: (client, key) => client.get(key),
  mget: (client, names) => client.mGet(names),
  close: (client) => (old ? client.disconnect() : client.close()),
});
