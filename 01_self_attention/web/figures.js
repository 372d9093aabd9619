/* Figures of chapter 01: what figures.c answers, drawn. */
'use strict';

figure('heat_map', {
  title: 'Who looks at whom, in your own words',
  at: 'figures/heat_map.svg',
  about: 'attention() of this chapter, compiled from attention.c. Each different word is a vector '
    + 'of random numbers.',
  inputs: [
    text('text', 'Words', 'in the beginning god created the heaven and the earth', 120,
      'the first 16 words count'),
    slider('dim', 'numbers in a vector', 1, 1024, 64, { log: true }),
    choice('scaled', 'scores', ['as they are', 'divided by √D'], 1),
  ],
  draw(a, width) {
    const words = a.words ? a.words.split(' ') : [];
    if (!words.length) return 'Write a word or two.';
    return [
      `${(100 * a.own).toFixed(0)} % of the attention goes to equal words.`,
      draw.map(width, {
        values: a.weights, rows: words, columns: words, digits: 2, cell: 38,
        label: 'Attention weights: a row for each word that looks, a column for each looked at',
      }),
    ];
  },
});

figure('sharpness', {
  title: 'A softmax that is too sure does not learn',
  at: 'Why divide by|√D',
  picture: 'figures/attention.svg',
  about: 'Ten keys and a query of D random numbers, a thousand times: sharpness.c.',
  inputs: [slider('dim', 'D', 1, 1024, 64, { log: true })],
  draw(a, width) {
    const row = (name, value, colour) => ({ name, value, note: value.toFixed(3), colour });
    const [plain, divided] = ['var(--two)', 'var(--one)'];
    return [
      `Largest weight ${a.largest[0].toFixed(2)} as the scores are, `
        + `${a.largest[1].toFixed(2)} divided by √D.`,
      draw.bars(width, {
        most: 1, label: 'Largest weight and size of the derivative, with and without the scale',
        rows: [
          row('largest weight, as it is', a.largest[0], plain),
          row('divided by √D', a.largest[1], divided),
          row('derivative, as it is', a.slope[0], plain),
          row('divided by √D', a.slope[1], divided),
        ],
      }),
    ];
  },
});
