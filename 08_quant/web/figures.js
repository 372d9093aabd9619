/* Figures of chapter 08. */
'use strict';

const formats = ['INT8', 'E4M3', 'E5M2', 'INT4', 'NF4'];

figure('numbers', {
  title: 'Your numbers, in fewer bits',
  at: 'figures/numbers.svg',
  about: 'quant_round_trip(): one scale for all of them, so that the largest is the largest that the format has.',
  inputs: [text('numbers', 'Numbers', '0.31 -0.02 0.11 0.9 -0.45 0.07 -1.27 0.6', 160, 'up to 31, between -1,000,000 and 1,000,000'), choice('format', 'format', formats, 3)],
  draw(a, width) {
    if (!a.count) return 'Write a few numbers.';
    const table = document.createElement('table'), n = x => String(+x.toPrecision(4));
    const most = Math.max(...a.numbers.map(Math.abs), 1e-30), half = Math.max(60, Math.min(150, width / 4));
    table.innerHTML = '<tr><th>number<th>becomes<th>off by<th></tr>' + a.numbers.map((w, i) =>
      `<tr><td>${n(w)}<td>${n(a.back[i])}<td>${n(a.back[i] - w)}<td></tr>`).join('');
    a.numbers.forEach((w, i) => {
      const x = v => half + half * v / most, svg = draw.canvas(2 * half + 8, 14, '');
      svg.append(draw.node('line', { x1: x(0), x2: x(0), y1: 0, y2: 14, class: 'axis' }), draw.node('line', { x1: x(w), x2: x(a.back[i]), y1: 7, y2: 7, stroke: 'var(--mark)', 'stroke-width': 2 }),
        draw.node('circle', { cx: x(w), cy: 7, r: 3, fill: 'var(--one)' }), draw.node('circle', { cx: x(a.back[i]), cy: 7, r: 3, fill: 'none', stroke: 'var(--mark)' }));
      table.rows[i + 1].cells[3].append(svg);
    });
    return [`Scale ${n(a.scale)}; the error is ${(100 * a.error).toFixed(2)} % of the whole.`, table];
  },
});

figure('error', {
  title: 'One large number, and who suffers',
  at: 'figures/outliers.svg',
  about: 'Normal numbers, 16 rows of 512, and in each row one of the size you choose. The error is that of all others.',
  inputs: [
    slider('outlier', 'size of the one', 1, 1000000, 100, { log: true }),
    choice('block', 'numbers that share a scale', ['a row of 512', '128', '64', '32', '16'], 0),
  ],
  draw(a, width) {
    const rows = formats.map((name, f) => ({ name, value: Math.max(a.error[f], 1e-4), note: `${(100 * a.error[f]).toFixed(2)} %, ${a.bits[f].toFixed(2)} bits`, colour: draw.colours[f < 1 || f > 2 ? 0 : 1] }));
    return [
      `INT8 is off by ${(100 * a.error[0]).toFixed(1)} %, E4M3 by ${(100 * a.error[1]).toFixed(1)} %.`,
      draw.bars(width, { rows, most: 1, low: 1e-3, log: true, label: 'Error of each format, on a logarithmic scale from 0.1 to 100 percent' }),
    ];
  },
});
