/*
 * Runs a chapter's program. It lives in a worker, so that the page never waits for it:
 * book.call(name, inputs) sends the inputs as lines NAME=VALUE and promises the answer, an object.
 *
 * WebAssembly knows no system; what wasi-libc asks for is answered here: a clock, a place for error
 * messages, an end. There are no files. A program that has ended (a CHECK that failed) is started
 * anew for the next call, and so is one that was stopped in the middle of its work.
 */
'use strict';
const book = (() => {
  const parts = {}, calls = new Map();
  let worker = null, next = 0;

  /* A module of one function with an instruction of SIMD, for WebAssembly.validate() to judge. */
  const simd = new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253,
    15, 253, 98, 11,
  ]);
  const missing = () => typeof WebAssembly !== 'object' ? 'WebAssembly'
    : !WebAssembly.validate(simd) ? 'the SIMD instructions of WebAssembly'
    : typeof Worker !== 'function' ? 'workers'
    : typeof DecompressionStream !== 'function' ? 'decompression' : null;

  /* The worker is made from this function's text: a page from the disk may load no file for it. */
  function inWorker() {
    let program = null, said = '';
    const decode = new TextDecoder(), encode = new TextEncoder();
    const bytes = () => new Uint8Array(program.exports.memory.buffer);
    const view = () => new DataView(program.exports.memory.buffer);
    const wasi = {
      proc_exit(code) { throw new Error(said.trim() || `the program ended with ${code}`); },
      clock_time_get(id, precision, to) {
        const now = id === 0 ? Date.now() : performance.now();
        view().setBigUint64(to, BigInt(Math.round(now * 1e6)), true);
        return 0;
      },
      fd_write(fd, list, count, to) {
        let all = 0;
        for (let i = 0; i < count; i++) {
          const at = view().getUint32(list + 8 * i, true);
          const length = view().getUint32(list + 8 * i + 4, true);
          said += decode.decode(bytes().slice(at, at + length));
          all += length;
        }
        view().setUint32(to, all, true);
        return 0;
      },
      fd_prestat_get: () => 8, /* EBADF: no folders */
    };
    let module = null, model = null;
    async function start() {
      const imports = {};
      for (const { module: from, name } of WebAssembly.Module.imports(module))
        (imports[from] ||= {})[name] = wasi[name] || (() => 52 /* ENOSYS */);
      program = await WebAssembly.instantiate(module, imports);
      program.exports._initialize();
      if (model) {
        const at = program.exports.web_room(model.length);
        bytes().set(model, at);
      }
    }
    async function answer(name, lines) {
      if (!program) await start();
      said = '';
      const text = encode.encode(lines), to = program.exports.web_input(text.length);
      bytes().set(text, to);
      program.exports[name]();
      const at = program.exports.web_answer(), memory = bytes();
      return JSON.parse(decode.decode(memory.slice(at, memory.indexOf(0, at))));
    }
    let before = Promise.resolve();
    onmessage = ({ data }) => {
      before = before.then(async () => {
        if (data.program) {
          module = await WebAssembly.compile(data.program);
          model = data.model;
          return;
        }
        try {
          postMessage({ id: data.id, answer: await answer(data.name, data.lines) });
        } catch (e) {
          program = null; /* whatever state it was in is not trusted */
          postMessage({ id: data.id, error: said.trim() || String(e.message || e) });
        }
      });
    };
  }

  async function unpacked(text) {
    const packed = new Blob([Uint8Array.from(atob(text), c => c.charCodeAt(0))]);
    const stream = packed.stream().pipeThrough(new DecompressionStream('gzip'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function started() {
    const source = new Blob([`(${inWorker})()`], { type: 'text/javascript' });
    const w = new Worker(URL.createObjectURL(source));
    w.onmessage = ({ data }) => {
      const [resolve, reject] = calls.get(data.id) || [];
      calls.delete(data.id);
      if (resolve) data.error === undefined ? resolve(data.answer) : reject(new Error(data.error));
    };
    const both = [parts.program, parts.model].map(p => p && unpacked(p));
    const [program, model] = await Promise.all(both);
    w.postMessage({ program, model });
    return w;
  }

  return {
    missing,
    /* program.js and model.js call this. */
    bytes(name, text) { parts[name] = text; },
    async call(name, inputs) {
      worker ||= started();
      const line = ([k, v]) => `${k}=${String(v).replace(/[\r\n]+/g, ' ')}`;
      const lines = Object.entries(inputs).map(line).join('\n');
      const w = await worker, id = next++;
      return new Promise((resolve, reject) => {
        calls.set(id, [resolve, reject]);
        w.postMessage({ id, name, lines });
      });
    },
    /* Ends what is being computed; the next call finds a new program, which remembers nothing. */
    stop() {
      if (worker) worker.then(w => w.terminate());
      worker = null;
      for (const [, reject] of calls.values()) reject(new Error('stopped'));
      calls.clear();
    },
  };
})();
