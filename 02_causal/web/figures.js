/* Figures of chapter 02. */
'use strict';

figure('online', {
  title: 'Three numbers, tile by tile',
  at: 'By hand',
  picture: 'figures/window.svg',
  about: 'online_softmax(), with your exponentials and values. A cell is what a key counts for in '
    + 'the sum, as it stands after each tile.',
  inputs: [
    text('exps', 'exp(score) of each key', '1 2 4 1 2 8', 120,
      'up to 24 numbers between 0.000001 and 1,000,000'),
    text('values', 'value of each key', '2 5 1 4 2 6', 120, 'as many, between -1,000 and 1,000'),
    slider('tile', 'keys in a tile', 1, 8, 2),
  ],
  draw(a, width) {
    if (!a.keys) return 'Write some positive numbers, and a value for each.';
    const n = x => x === null ? '–' : String(+x.toFixed(4)), last = a.m.length - 1;
    const row = (m, i) => [
      i + 1, `log ${n(Math.exp(m))}`, i ? n(a.rescale[i]) : '–', n(a.l[i]), n(a.o[i]),
      n(a.o[i] / a.l[i]),
    ];
    return [
      `o / l = ${n(a.o[last] / a.l[last])}; all at once: ${n(a.exact)}.`,
      draw.table(['tile', 'm', 'factor', 'l', 'o', 'o / l'], a.m.map(row)),
      draw.map(width, {
        values: a.shares, rows: a.m.map((_, i) => `after ${i + 1}`),
        columns: Array.from({ length: a.keys }, (_, j) => String(j + 1)), most: 1, digits: 2,
        cell: 44, label: 'exp(s - m) of each key after each tile',
      }),
    ];
  },
});

figure('mask', {
  title: 'The tiles that are never visited',
  at: 'The mask is work|The mask',
  inputs: [
    slider('T', 'T', 1, 4096, 256, { log: true }),
    slider('tile', 'tile', 1, 256, 32, { log: true }),
  ],
  draw(a, width, { T, tile }) {
    const n = a.tiles, size = Math.max(3, Math.min(22, Math.floor(Math.min(width, 460) / n)));
    const label = `${n} by ${n} tiles of queries and keys; those above the diagonal are left out`;
    const kinds = ['never visited', 'computed', 'computed, then partly masked'];
    const colours = ['var(--block)', 'var(--one)', 'var(--two)'];
    const svg = draw.canvas(n * size + 2, n * size + 2, label);
    a.visited.forEach((v, i) => svg.append(draw.titled(draw.node('rect', {
      x: 1 + (i % n) * size, y: 1 + Math.floor(i / n) * size, width: size - 1, height: size - 1,
      rx: 1, fill: colours[v],
    }), kinds[v])));
    const number = x => x.toLocaleString('en'), extra = 100 * (a.computed / a.visible - 1);
    return [
      `Of ${number(T ** 2)} scores ${number(a.visible)} may be seen and ${number(a.computed)} are `
        + `computed: ${extra.toFixed(1)} % too many.`,
      a.tile !== tile && `(Drawn with tiles of ${a.tile}: more than 64 in a row are not.)`,
      svg,
    ];
  },
});

figure('race', {
  title: 'Tiles against the whole matrix, on this machine',
  at: 'figures/scaling.svg',
  about: 'causal_forward_cpu() and causal_materialised_cpu(), 4 heads of 32, one thread of '
    + 'WebAssembly; the fastest of a few.',
  run: 'measure',
  draw(a, width, inputs, run) {
    const line = (name, key) => ({ name, points: run.map(r => [r.T, r[key]]) });
    return [
      `T = ${a.T}: tiles ${a.tiles_ms.toFixed(2)} ms and ${draw.bytes(a.lse_bytes)} kept, the `
        + `matrix ${a.matrix_ms.toFixed(2)} ms and ${draw.bytes(a.matrix_bytes)}. `
        + (a.close ? 'The same numbers.' : 'The numbers differ!'),
      run.length > 1 && draw.chart(width, {
        lines: [line('tiles', 'tiles_ms'), line('matrix', 'matrix_ms')], x: 'T', y: 'milliseconds',
        logx: true, logy: true, label: 'Milliseconds against T for both ways',
      }),
    ];
  },
});
