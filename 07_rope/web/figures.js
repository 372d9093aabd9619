/* Figures of chapter 07. */
'use strict';

figure('pair', {
  title: 'Turn a pair',
  at: 'figures/rotation.svg',
  about: 'rope_rotate_cpu() on q = (3, 1) and k = (2, 1).',
  inputs: [
    slider('angle', 'degrees for each place', 0, 180, 90),
    slider('place_q', 'place of q', 0, 64, 3),
    slider('place_k', 'place of k', 0, 64, 2),
  ],
  draw(a, width, { place_q, place_k }) {
    const size = Math.min(width, 300), middle = size / 2, unit = size / 7.2;
    const axis = { class: 'axis', x1: 0, x2: size, y1: middle, y2: middle };
    const svg = draw.canvas(size, size, 'The arrows q and k, as they stand and turned');
    svg.append(draw.node('line', axis),
      draw.node('line', { class: 'axis', x1: middle, x2: middle, y1: 0, y2: size }));
    const arrow = (x, y, stroke, name) => {
      const cx = middle + unit * x, cy = middle - unit * y, thin = !name;
      svg.append(
        draw.node('line', {
          x1: middle, y1: middle, x2: cx, y2: cy, stroke, 'stroke-width': thin ? 1 : 3,
          'stroke-dasharray': thin ? '4 3' : undefined,
        }),
        draw.node('circle', { cx, cy, r: thin ? 2 : 4, fill: stroke }),
        draw.text(cx + (x < 0 ? -6 : 6), cy + (y < 0 ? 14 : -6), name,
          { 'text-anchor': x < 0 ? 'end' : 'start' }));
    };
    const [q0, q1, k0, k1, turned_q0, turned_q1, turned_k0, turned_k1] = a.arrows;
    arrow(q0, q1, 'var(--one)', '');
    arrow(k0, k1, 'var(--two)', '');
    arrow(turned_q0, turned_q1, 'var(--one)', `q at ${place_q}`);
    arrow(turned_k0, turned_k1, 'var(--two)', `k at ${place_k}`);
    const n = x => String(+x.toFixed(2) + 0);
    return [
      `q · k = ${n(a.product)}; seven places further on, both: ${n(a.moved)}. Only the distance `
        + `${place_q - place_k} counts.`,
      svg,
    ];
  },
});

figure('decay', {
  title: 'What distance leaves',
  at: 'figures/decay.svg',
  inputs: [
    slider('pairs', 'pairs', 1, 64, 32), slider('theta', 'theta', 100, 1e7, 10000, { log: true }),
  ],
  draw(a, width) {
    const left = d => `${(100 * a.left[d]).toFixed(0)} %`;
    return [
      `Of a product of equal arrows ${left(1)} is left one token back, ${left(16)} at 16, `
        + `${left(256)} at 256.`,
      draw.chart(width, {
        lines: [{ name: 'left of q · k', points: a.left.map((y, d) => [d, y]) }],
        x: 'distance in tokens', y: 'part that is left',
        label: 'Mean cosine over all pairs against the distance',
      }),
    ];
  },
});

figure('stretch', {
  title: 'Stretch a model: PI, NTK and YaRN\'s ramp',
  at: 'figures/wavelengths.svg',
  about: 'rope_frequencies() for your model; it begins with DeepSeek-V3.',
  inputs: [
    slider('factor', 'factor', 1, 128, 40),
    slider('original', 'trained length', 64, 131072, 4096, { log: true }),
    slider('pairs', 'pairs', 2, 64, 32), slider('theta', 'theta', 100, 1e7, 10000, { log: true }),
    slider('beta_fast', 'beta_fast (turns)', 1, 128, 32),
    slider('beta_slow', 'beta_slow', 0.5, 8, 1, { step: 0.5 }),
  ],
  draw(a, width, { original, factor }) {
    const n = a.turns.length, round = a.turns.filter(t => t >= 1).length;
    const lines = ['as trained', 'PI', 'NTK', 'YaRN'].map((name, t) => ({
      name, points: Array.from({ length: n }, (_, i) => [i, 2 * Math.PI / a.f[t * n + i]]),
    }));
    lines.push({ name: 'trained length', points: [[0, original], [n - 1, original]] });
    return [
      `${round} of ${n} pairs came round in training. YaRN's ramp goes from pair ${a.low} to `
        + `${a.high}; scores grow by ${a.softmax_factor.toFixed(3)}, with mscale 1.`,
      draw.chart(width, {
        lines, x: 'pair', y: 'tokens for one turn', logy: true, height: 300,
        label: `Tokens for one turn of each pair, stretched ${factor} times`,
      }),
    ];
  },
});
