/* Figures of chapter 06. */
'use strict';

figure('speed', {
  title: 'How many guesses pay?',
  at: 'figures/guesses.svg',
  about: 'speculate_speedup(), the lesson\'s formula, for your numbers. They begin with 109m on a '
    + 'GPU.',
  inputs: [
    slider('a', 'first draft kept', 0, 1, 0.8, { step: 0.01 }),
    slider('fade', 'each next one, of the one before', 0.5, 1, 0.95, { step: 0.01 }),
    slider('row', 'one more row costs', 0, 1, 0.145, { step: 0.005 }),
    slider('draft', 'a draft costs (c)', 0, 1, 0.25, { step: 0.01 }),
  ],
  draw(a, width) {
    const numbered = list => list.map((y, k) => [k, y]);
    const speed = numbered(a.speedup), best = a.speedup.indexOf(Math.max(...a.speedup));
    const tokens = a.tokens[best], times = a.speedup[best];
    return [
      best ? `${best} draft${best > 1 ? 's' : ''} a step: ${tokens.toFixed(2)} tokens for `
        + `${(tokens / times).toFixed(2)} plain steps, ${times.toFixed(2)} times as fast.`
        : 'Guessing does not pay here.',
      draw.chart(width, {
        lines: [
          { name: 'speed-up', points: speed },
          { name: 'tokens a step', points: numbered(a.tokens) },
        ],
        x: 'drafts a step (k)', y: 'times', low: 0, dot: speed[best],
        label: 'Speed-up and tokens a step against the number of drafts',
      }),
    ];
  },
});

figure('verify', {
  title: 'Whatever is guessed, the model\'s tokens come out',
  at: 'Nothing may change|The code',
  about: 'verify_accepts() and verify_replace() on ten tokens: a draft is drawn from q and judged '
    + 'by p.',
  inputs: [
    slider('apart', 'how far the drafter is off', 0, 3, 0.7, { step: 0.05 }),
    slider('sharp', 'how sure both are', 0.2, 4, 1, { step: 0.1 }),
    slider('count', 'drafts drawn', 1, 100000, 5000, { log: true }),
  ],
  draw(a, width) {
    const colours = ['var(--one)', 'var(--one)', 'var(--three)', 'var(--two)'];
    return [
      `${(100 * a.kept).toFixed(1)} % of the drafts stayed; Σ min(p, q) says `
        + `${(100 * a.acceptance).toFixed(1)} %.`,
      draw.map(width, {
        values: [...a.p, ...a.came, ...a.as_draft, ...a.q],
        rows: ['the model, p', 'came out', '… as a draft', 'the drafter, q'],
        columns: a.p.map((_, i) => `t${i}`), digits: 2, cell: 48, colour: i => colours[i],
        label: 'Probabilities of ten tokens: the model\'s, as they came out, of these as accepted '
          + 'drafts, and the drafter\'s',
      }),
    ];
  },
});
