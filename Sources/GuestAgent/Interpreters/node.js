// The parked node: one process that waits inside the snapshot and then becomes the program. Started
// by the guest agent as root, under its system call filter, with the program's pipes as 0, 1 and 2,
// a packet socket as 3 and the events' pipe as 4. What a program sees is what `node main.js` would
// show it, except that Math.random is a generator of our own: V8's would repeat itself in every clone. (OpenSSL's inside
// node reseeds itself: the agent starts this process under a clock that is far ahead.)
//
// Out, once: W. In, once: NUL-separated seed (hexadecimal), source, count, arguments, environment.
'use strict';
const fs = require('fs');
const path = require('path');
const values = require('./_mayfly_values.js');

const WARM = ['assert', 'buffer', 'child_process', 'crypto', 'events', 'fs/promises', 'http',
  'https', 'net', 'os', 'perf_hooks', 'querystring', 'readline', 'stream', 'stream/promises',
  'string_decoder', 'timers', 'timers/promises', 'tls', 'url', 'util', 'v8', 'vm',
  'worker_threads', 'zlib'];

// Everything that a program usually uses, once. Nothing here may ask for random numbers.
async function warm() {
  for (const name of WARM) require(name);
  const once = path.join(__dirname, 'once.js');
  fs.writeFileSync(once, 'exports.f = (x) => `${JSON.stringify([x * 7])}`;');
  require(once).f(6);
  delete require.cache[once];
  fs.unlinkSync(once);
  values.rewrite('const a = 1;\na * 2', false);
  values.rewrite('import "fs";\nawait 1', false);
  require('util').inspect({ a: [1, 'b', new Map([[1, 2]])] });
  JSON.parse(JSON.stringify({ a: 1.5, b: [null, true] }));
  require('crypto').createHash('sha256').update('x').digest('hex');
  await import('data:text/javascript,export default 1');
  await new Promise((resolve) => setTimeout(resolve, 1));
  try { throw new Error('warm'); } catch (error) { String(error.stack); }
  process.stdout.write('');
  process.stderr.write('');
}

// xoshiro128**, by Blackman and Vigna (public domain), seeded by the host.
function seededRandom(seed) {
  let [a, b, c, d] = [0, 4, 8, 12].map((at) => seed.readUInt32BE(at) ^ seed.readUInt32BE(at + 16));
  if ((a | b | c | d) === 0) d = 1;
  const rotate = (x, n) => (x << n) | (x >>> (32 - n));
  const next = () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a; d ^= b; b ^= c; a ^= d; c ^= t;
    d = rotate(d, 11);
    return result;
  };
  return function random() {
    return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
  };
}

function become(packet) {
  const [seed, source, count, ...rest] = packet.toString('utf8').split('\0');
  const [user, group] = process.env.MAYFLY_ACCOUNT.split(':').map(Number);
  fs.closeSync(3);
  process.setgroups([]);
  process.setgid(group);
  process.setuid(user);
  process.chdir('/work');
  for (const name of Object.keys(process.env)) delete process.env[name];
  for (const field of rest.slice(Number(count))) {
    const at = field.indexOf('=');
    process.env[field.slice(0, at)] = field.slice(at + 1);
  }
  if (process.env.MAYFLY_EVENTS === undefined) fs.closeSync(4);
  const main = path.resolve('/work', source);
  process.argv = [process.execPath, main, ...rest.slice(0, Number(count))];
  Object.defineProperty(Math, 'random', {
    value: seededRandom(Buffer.from(seed, 'hex')), writable: true, configurable: true,
    enumerable: false,
  });
  const origin = Date.now() - performance.now();
  Object.defineProperty(performance, 'timeOrigin', {
    value: origin, configurable: true, enumerable: true,
  });
  for (const name of Object.keys(require.cache)) delete require.cache[name];
  values.run(main);
}

warm().then(() => {
  fs.writeSync(3, 'W');
  const packet = Buffer.alloc(1 << 17);
  become(packet.subarray(0, fs.readSync(3, packet)));
}).catch((error) => {
  fs.writeSync(2, `node: ${error.stack}\n`);
  process.exit(127);
});
