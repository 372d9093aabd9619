/* Figures of chapter 10 and of its page on sparse attention. */
'use strict';

const pieces = text => text.split('\x1f').slice(0, -1);
/* A token as a label; one of white space alone has a sign. */
const visible = t => t.trim() || (t.includes('\n') ? '⏎' : t ? '␣' : '∅');
const verse = 'And God said, Let there be light: and there was light. And God saw the light, that '
  + 'it was good';

figure('write', {
  title: 'A model of 1.9 million numbers writes here',
  at: 'Text from probabilities|Choosing the next|Generating|The code',
  picture: 'figures/loss.svg',
  about: 'Four layers, trained by this program on the King James Bible, in four and eight bits '
    + '(1.2 MB). It knows no other book.',
  run: 'write',
  inputs: [
    text('prompt', 'Begin with', 'And God said unto', 200, 'up to 120 tokens are read'),
    slider('temperature', 'temperature', 0, 2, 0.7, { step: 0.05 }),
    slider('top_k', 'top-k (0: all)', 0, 100, 0),
    slider('top_p', 'top-p', 0.05, 1, 0.95, { step: 0.05 }), slider('seed', 'seed', 0, 99, 1),
  ],
  draw(a, width) {
    const tokens = pieces(a.tokens), names = pieces(a.candidates);
    const given = element('span', { class: 'given' }, tokens.slice(0, a.prompt).join(''));
    const row = (name, i) => ({
      name: visible(name), value: a.likely[i], note: `${(100 * a.likely[i]).toFixed(1)} %`,
    });
    return [
      `${tokens.length - a.prompt} tokens, ${a.per_second_ms.toFixed(1)} ms each.`,
      element('div', { class: 'writes' }, given, tokens.slice(a.prompt).join('')),
      draw.bars(Math.min(width, 420), {
        most: 1, label: 'What the last token was drawn from, the likeliest six',
        rows: names.map(row).filter(r => r.value > 0),
      }),
    ];
  },
});

function heads(a, width) {
  const tokens = pieces(a.tokens).map(visible), T = tokens.length, count = a.p.length / (T * T);
  const head = h => draw.map(width > 620 ? (width - 14) / 2 : width, {
    values: a.p.slice(h * T * T, (h + 1) * T * T), rows: tokens, columns: tokens, most: 0.8,
    cell: 20,
    under: `head ${h}`, label: `What head ${h} of the layer looks at`,
    colour: (i, j) => a.chosen[i * T + j] ? 'rgb(var(--heat))' : 'var(--line)',
  });
  return draw.side(...Array.from({ length: count }, (_, h) => head(h)));
}

figure('attends', {
  title: 'Who attends to whom, in the model that writes',
  at: 'What it learns|Measured',
  inputs: [
    text('text', 'Text', verse, 200, 'the first 48 tokens'), slider('layer', 'layer', 0, 3, 1),
  ],
  draw(a, width) {
    if (!a.p) return 'Write a few words.';
    return [
      `${pieces(a.tokens).length} tokens; the model's loss on them is ${a.loss.toFixed(2)}. A row `
        + 'is a token that looks, a column one that is looked at.',
      heads(a, width),
    ];
  },
});

figure('selected', {
  title: 'What an indexer selects',
  at: 'Measured',
  picture: 'figures/indexer.svg',
  page: 'SPARSE.md',
  about: 'The model of chapter 10\'s page, with indexers that have watched its attention. What is '
    + 'not selected is not read.',
  ask: 'attends',
  inputs: [
    text('text', 'Text', verse, 200, 'the first 48 tokens'),
    slider('k', 'k, tokens that a query may read (0: all)', 0, 48, 8),
    slider('layer', 'layer', 0, 3, 1),
  ],
  draw(a, width) {
    if (!a.p) return 'Write a few words.';
    const T = pieces(a.tokens).length, all = T * (T + 1) / 2;
    const read = a.chosen.reduce((sum, c) => sum + c, 0);
    return [
      `${read} of ${all} pairs are read, ${(100 * read / all).toFixed(0)} %. The loss on this text `
        + `is ${a.loss.toFixed(3)}; with k = 0, attention sees all.`,
      heads(a, width),
    ];
  },
});
