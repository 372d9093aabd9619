/* Figures of chapter 02. */
'use strict';

figure('online', {
  title: 'Three numbers, tile by tile',
  at: 'Six keys by hand',
  about: 'online_softmax(), with your exponentials and values. A bar is what a key counts for in the sum, as it stands after each tile.',
  inputs: [
    text('exps', 'exp(score) of each key', '1 2 4 1 2 8', 120, 'up to 24 numbers between 0.000001 and 1,000,000'),
    text('values', 'value of each key', '2 5 1 4 2 6', 120, 'as many'),
    slider('tile', 'keys in a tile', 1, 8, 2),
  ],
  draw(a, width) {
    if (!a.keys) return 'Write some positive numbers, and a value for each.';
    const tiles = a.m.length, n = a.keys, number = x => x === null ? '–' : String(+x.toFixed(4));
    const table = document.createElement('table');
    table.innerHTML = '<tr><th>tile<th>m<th>factor<th>l<th>o<th>o / l</tr>' + a.m.map((m, i) =>
      `<tr><td>${i + 1}<td>log ${number(Math.exp(m))}<td>${i ? number(a.rescale[i]) : '–'}<td>${number(a.l[i])}<td>${number(a.o[i])}<td>${number(a.o[i] / a.l[i])}</tr>`).join('');
    const rows = a.m.map((_, i) => `after ${i + 1}`);
    return [
      `o / l = ${number(a.o[tiles - 1] / a.l[tiles - 1])}; all at once: ${number(a.exact)}.`,
      table,
      draw.map(width, { values: a.shares, rows, columns: Array.from({ length: n }, (_, j) => String(j + 1)), most: 1, digits: 2, cell: 44, label: 'exp(s - m) of each key after each tile' }),
    ];
  },
});

figure('mask', {
  title: 'The tiles that are never visited',
  at: 'The mask is work',
  inputs: [slider('T', 'T', 1, 4096, 256, { log: true }), slider('tile', 'tile', 1, 256, 32, { log: true })],
  draw(a, width, inputs) {
    const n = a.tiles, size = Math.max(3, Math.min(22, Math.floor(Math.min(width, 460) / n)));
    const svg = draw.canvas(n * size + 2, n * size + 2, `Tiles of queries and keys: ${n} by ${n}, those above the diagonal are left out`);
    a.visited.forEach((v, i) => svg.append(draw.titled(draw.node('rect', {
      x: 1 + (i % n) * size, y: 1 + Math.floor(i / n) * size, width: size - 1, height: size - 1, rx: 1,
      fill: ['var(--block)', 'var(--one)', 'var(--two)'][v],
    }), ['never visited', 'computed', 'computed, then partly masked'][v])));
    const number = x => x.toLocaleString('en');
    return [
      `Of ${number(inputs.T ** 2)} scores ${number(a.visible)} may be seen and ${number(a.computed)} are computed: ${(100 * (a.computed / a.visible - 1)).toFixed(1)} % too many.`
        + (a.tile !== inputs.tile ? ` (Drawn with tiles of ${a.tile}: more than 64 in a row are not.)` : ''),
      svg,
    ];
  },
});

figure('race', {
  title: 'Tiles against the whole matrix, on this machine',
  at: 'figures/scaling.svg',
  about: 'causal_forward_cpu() and causal_materialised_cpu(), 4 heads of 32, one thread of WebAssembly; the fastest of a few.',
  run: 'measure',
  draw(a, width, inputs, rows) {
    const line = (name, key) => ({ name, points: rows.map(r => [r.T, r[key]]) });
    return [
      `T = ${a.T}: tiles ${a.tiles_ms.toFixed(2)} ms and ${draw.short(a.lse_bytes)}B kept, the matrix ${a.matrix_ms.toFixed(2)} ms and ${draw.short(a.matrix_bytes)}B. ${a.close ? 'The same numbers.' : 'The numbers differ!'}`,
      rows.length > 1 ? draw.chart(width, { lines: [line('tiles', 'tiles_ms'), line('matrix', 'matrix_ms')], x: 'T', y: 'milliseconds', logx: true, logy: true, label: 'Milliseconds against T for both ways' }) : '',
    ];
  },
});
