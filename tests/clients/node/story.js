// What a client program and the test that started it (tests/clients/main.rs) tell each other; python/story.py says it in words.
'use strict';

// Between two rounds: enough clients run at once.
const PACE = 10;
// Rounds that are read back at a time.
const BATCH = 200;

const [mode, name, ...addresses] = process.argv.slice(2);
const nodes = addresses.map((address) => {
  const [host, port] = address.split(':');
  return { host, port: Number(port) };
});

let finishing = false;
process.stdin.on('end', () => (finishing = true)).resume();

const say = (...words) => process.stdout.write(words.join(' ') + '\n');
const oneLine = (error) => `${error.name} ${error.message}`.replace(/\s+/g, ' ');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function expect(what, got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) say(`wrong ${what}: ${a}, not ${b}`);
}

// The keys of a round: some are written one at a time, some in a pipeline, some in a transaction.
function keys(n) {
  const first = `{${name}}:${n}:0`;
  return n % 5 < 2 ? [first, `{${name}}:${n}:1`] : [first];
}

// The nth of a promise's value and an error after so many milliseconds.
function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Where MOVED sends a plain client, or nothing.
function movedTo(error) {
  const moved = /^MOVED \d+ (.*):(\d+)$/.exec(error.message);
  return moved && { host: moved[1], port: Number(moved[2]) };
}

// Runs a client through its story. `library` has its name and version; `connect()` answers a client; `tour(client, tried)` tries everything
// once; `write(client, n)` writes the keys of a round; `after(error, client)` answers the client to go on with; `get(client, key)`,
// `mget(client, keys)` and `close(client)` are what they say.
async function run({ library, connect, tour, write, after, get, mget, close }) {
  say('library', library);
  let client = await connect();
  await tour(client);
  say('ready');
  const acked = [];
  for (let n = 1; !finishing; n++) {
    try {
      await write(client, n);
      acked.push(n);
      say('acked', n);
      const found = await get(client, keys(n)[0]);
      if (found !== String(n)) say(`stale a read: ${found}, not ${n}`);
    } catch (error) {
      say('error', n, oneLine(error));
      client = await after(error, client);
    }
    await pause(PACE);
  }
  await tour(client);
  for (let start = 0; start < acked.length; start += BATCH) {
    const wanted = acked.slice(start, start + BATCH).flatMap((n) => keys(n).map((key) => [key, String(n)]));
    const found = await mget(client, wanted.map(([key]) => key));
    wanted.forEach(([key, value], i) => expect(`lost ${key}`, found[i], value));
  }
  say('verified', acked.length);
  await close(client);
}

module.exports = {
  mode, name, nodes, expect, keys, movedTo, pause, say, within,
  // What nobody expected ends the program with a line that says so.
  start: (story) => run(story).then(() => process.exit(0), (error) => { say('wrong end:', oneLine(error), error.stack); process.exit(1); }),
};
