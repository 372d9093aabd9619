/* Figures of chapter 04. */
'use strict';

const models = ['DeepSeek-V2-Lite', 'DeepSeek-V2', 'DeepSeek-V3', 'Llama 2 7B', 'DeepSeek 67B'];
const kinds = ['MHA', 'GQA', 'MQA', 'MLA'];

figure('cache', {
  title: 'The bill, model by model',
  at: 'figures/cache_bytes.svg',
  inputs: [
    choice('model', 'model', models, 2),
    slider('tokens', 'tokens', 1, 1048576, 131072, { log: true }),
    slider('bits', 'bits of a number', 4, 32, 16),
  ],
  draw(a, width) {
    const row = (name, i) => ({
      name: i === a.own ? `${name} (its own)` : name, value: a.bytes[i],
      note: draw.bytes(a.bytes[i]), colour: i === a.own ? 'var(--mark)' : 'var(--one)',
      strong: i === a.own,
    });
    return [
      `Published with ${kinds[a.own]}: ${draw.bytes(a.bytes[a.own])}. With ${a.heads} heads in `
        + `${a.layers} layers MLA takes ${(100 * a.bytes[3] / a.bytes[0]).toFixed(1)} % of MHA's.`,
      draw.bars(width, {
        label: 'Bytes of the cache, were the model MHA, GQA, MQA or MLA', rows: kinds.map(row),
      }),
    ];
  },
});

figure('operations', {
  title: 'Which of the two?',
  at: 'figures/operations.svg',
  picture: 'figures/operations.svg',
  inputs: [
    choice('model', 'a layer of', models.slice(0, 3), 0),
    slider('length', 'tokens in all', 2, 131072, 4096, { log: true }),
  ],
  draw(a, width) {
    const line = key => ({ name: key, points: a.T.map((t, i) => [t, a[key][i]]) });
    return [
      `Up to ${a.crossing} new tokens absorbed does less; one new token costs naive `
        + `${(a.naive[0] / a.absorbed[0]).toFixed(0)} times as much.`,
      draw.chart(width, {
        lines: [line('naive'), line('absorbed')], x: 'new tokens', y: 'operations for each',
        logx: true, logy: true, at: a.crossing,
        label: 'Operations for each new token against how many there are',
      }),
    ];
  },
});

figure('decode', {
  title: 'A new token, naive and absorbed, on this machine',
  at: 'figures/decode.svg',
  about: 'mla_forward() of a layer with 8 heads and a latent of 128 + 16, one thread of '
    + 'WebAssembly; the fastest of a few.',
  run: 'measure',
  draw(a, width, inputs, run) {
    const line = (name, key) => ({ name, points: run.map(r => [r.tokens, r[key]]) });
    return [
      `${a.tokens} tokens in the cache: naive ${a.naive_ms.toFixed(2)} ms, absorbed `
        + `${a.absorbed_ms.toFixed(2)} ms, ${(a.naive_ms / a.absorbed_ms).toFixed(1)} times as `
        + `fast; attention has ${(a.naive_flop / a.absorbed_flop).toFixed(0)} times fewer `
        + 'operations. '
        + (a.close ? 'Both give the same numbers.' : 'The numbers differ!'),
      run.length > 1 && draw.chart(width, {
        lines: [line('naive', 'naive_ms'), line('absorbed', 'absorbed_ms')],
        x: 'tokens in the cache', y: 'milliseconds', logx: true, logy: true,
        label: 'Milliseconds of a step against the tokens in the cache',
      }),
    ];
  },
});
