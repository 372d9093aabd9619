/* Figures of chapter 03. */
'use strict';

figure('cache', {
  title: 'What a memory costs',
  at: 'figures/kv_cache.svg',
  inputs: [
    slider('layers', 'layers', 1, 128, 80), slider('heads', 'query heads', 1, 128, 64),
    slider('groups', 'key heads of GQA', 1, 32, 8),
    slider('head_dim', 'head dimension', 32, 256, 128, { step: 32 }),
    slider('tokens', 'tokens', 1, 1048576, 131072, { log: true }),
    slider('bytes', 'a number', 1, 3, 2, { show: x => ['', 'FP8', 'BF16', 'F32'][x] }),
  ],
  draw(a, width, { groups, heads }) {
    const names = ['MHA', 'GQA', 'MQA'];
    const tokens = (f, i) => `${f.toLocaleString('en')} (${names[i]})`;
    const other = a.groups === groups ? '' : ` (${groups} does not divide ${heads})`;
    return [
      `A token leaves ${draw.bytes(a.per_token[0])} with MHA, ${draw.bytes(a.per_token[1])} with `
        + `GQA of ${a.groups}${other}, ${draw.bytes(a.per_token[2])} with MQA.`,
      `80 GB hold so many tokens: ${a.fits.map(tokens).join(', ')}.`,
      draw.bars(width, {
        label: 'Bytes of the cache for all tokens with MHA, GQA and MQA',
        rows: names.map((name, i) =>
          ({ name, value: a.all[i], note: draw.bytes(a.all[i]), colour: draw.colours[i] })),
      }),
    ];
  },
});

figure('sharing', {
  title: 'Four heads, and how many keys they have',
  at: 'Sharing|The mathematics',
  picture: 'figures/heads.svg',
  about: 'multihead.c with random weights on ten random tokens: heads that share a key still ask '
    + 'with queries of their own.',
  inputs: [choice('key_heads', 'key heads', ['1 (MQA)', '2 (GQA)', '4 (MHA)'], 2)],
  draw(a, width) {
    const T = 10, names = Array.from({ length: T }, () => '');
    const each = Math.floor((width - 60) / (width > 500 ? 4 : 2));
    const head = h => draw.map(each, {
      values: a.p.slice(h * T * T, (h + 1) * T * T), rows: names, columns: names, most: 1, cell: 18,
      under: `head ${h}`, label: `What head ${h} looks at`,
    });
    return [
      `A token leaves ${a.cached} numbers in a layer; the heads' rows differ by `
        + `${(100 * a.apart).toFixed(0)} % of what is possible.`,
      draw.side(...[0, 1, 2, 3].map(head)),
    ];
  },
});
