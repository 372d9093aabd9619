/* Figures of chapter 08. */
'use strict';

const formats = ['INT8', 'E4M3', 'E5M2', 'INT4', 'NF4'];

figure('numbers', {
  title: 'Your numbers, in fewer bits',
  at: 'figures/numbers.svg',
  about: 'quant_round_trip(): one scale for all of them, so that the largest is the largest that '
    + 'the format has.',
  inputs: [
    text('numbers', 'Numbers', '0.31 -0.02 0.11 0.9 -0.45 0.07 -1.27 0.6', 160,
      'up to 31, between -1,000,000 and 1,000,000'),
    choice('format', 'format', formats, 3),
  ],
  draw(a, width) {
    if (!a.count) return 'Write a few numbers.';
    const n = x => String(+x.toPrecision(4)), most = Math.max(...a.numbers.map(Math.abs), 1e-30);
    const half = Math.max(60, Math.min(150, width / 4)), x = v => half + half * v / most;
    /* A dot where the number was, a ring where it has gone. */
    const moved = (from, to) => {
      const svg = draw.canvas(2 * half + 8, 14, `${n(from)} becomes ${n(to)}`);
      svg.append(
        draw.node('line', { x1: x(0), x2: x(0), y1: 0, y2: 14, class: 'axis' }),
        draw.node('line', {
          x1: x(from), x2: x(to), y1: 7, y2: 7, stroke: 'var(--mark)', 'stroke-width': 2,
        }),
        draw.node('circle', { cx: x(from), cy: 7, r: 3, fill: 'var(--one)' }),
        draw.node('circle', { cx: x(to), cy: 7, r: 3, fill: 'none', stroke: 'var(--mark)' }));
      return svg;
    };
    const row = (w, i) => [n(w), n(a.back[i]), n(a.back[i] - w), moved(w, a.back[i])];
    return [
      `Scale ${n(a.scale)}; the error is ${(100 * a.error).toFixed(2)} % of the whole.`,
      draw.table(['number', 'becomes', 'off by', ''], a.numbers.map(row)),
    ];
  },
});

figure('error', {
  title: 'One large number, and who suffers',
  at: 'figures/outliers.svg',
  about: 'Normal numbers, 16 rows of 512, and in each row one of the size you choose. The error is '
    + 'that of all others.',
  inputs: [
    slider('outlier', 'size of the one', 1, 1e6, 100, { log: true }),
    choice('block', 'numbers that share a scale', ['a row of 512', '128', '64', '32', '16'], 0),
  ],
  draw(a, width) {
    const percent = f => `${(100 * a.error[f]).toFixed(f < 3 ? 2 : 1)} %`;
    const row = (name, f) => ({
      name, value: a.error[f], note: `${percent(f)}, ${a.bits[f].toFixed(2)} bits`,
      colour: name.startsWith('E') ? 'var(--two)' : 'var(--one)',
    });
    return [
      `INT8 is off by ${percent(0)}, E4M3 by ${percent(1)}.`,
      draw.bars(width, {
        rows: formats.map(row), most: 1, low: 1e-3, log: true,
        label: 'Error of each format, on a logarithmic scale from 0.1 to 100 percent',
      }),
    ];
  },
});
