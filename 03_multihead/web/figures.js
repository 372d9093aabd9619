/* Figures of chapter 03. */
'use strict';

const size = b => b >= 2 ** 40 ? `${(b / 2 ** 40).toFixed(1)} TiB` : b >= 2 ** 30 ? `${(b / 2 ** 30).toFixed(1)} GiB` : b >= 2 ** 20 ? `${(b / 2 ** 20).toFixed(1)} MiB` : b >= 1024 ? `${(b / 1024).toFixed(1)} KiB` : `${b} B`;

figure('cache', {
  title: 'What a memory costs',
  at: 'figures/kv_cache.svg',
  inputs: [
    slider('layers', 'layers', 1, 128, 80), slider('heads', 'query heads', 1, 128, 64), slider('groups', 'key heads of GQA', 1, 32, 8),
    slider('head_dim', 'head dimension', 32, 256, 128, { step: 32 }), slider('tokens', 'tokens', 1, 1048576, 131072, { log: true }),
    slider('bytes', 'bytes of a number', 1, 4, 2, { show: x => ({ 1: '1 (FP8)', 2: '2 (BF16)', 3: '4 (F32)', 4: '4 (F32)' })[x] }),
  ],
  draw(a, width, { groups, heads }) {
    const names = ['MHA', 'GQA', 'MQA'];
    return [
      `A token leaves ${size(a.per_token[0])} with MHA, ${size(a.per_token[1])} with GQA of ${a.groups}${a.groups !== groups ? ` (${groups} does not divide ${heads})` : ''}, ${size(a.per_token[2])} with MQA.`,
      draw.bars(width, {
        label: 'Bytes of the cache for all tokens with MHA, GQA and MQA',
        rows: names.map((name, i) => ({ name, value: a.all[i], note: size(a.all[i]), colour: draw.colours[i] })),
      }),
      `80 GB hold ${a.fits.map((f, i) => `${f.toLocaleString('en')} tokens (${names[i]})`).join(', ')}.`,
    ];
  },
});

figure('sharing', {
  title: 'Four heads, and how many keys they have',
  at: 'Sharing: MHA, GQA, MQA',
  about: 'multihead.c with random weights on ten random tokens: heads that share a key still ask with queries of their own.',
  inputs: [choice('key_heads', 'key heads', ['1 (MQA)', '2 (GQA)', '4 (MHA)'], 2)],
  draw(a, width) {
    const T = 10, half = Math.floor((width - 20) / (width > 500 ? 4 : 2)) - 6, names = Array.from({ length: T }, () => '');
    const box = document.createElement('div');
    box.style.cssText = 'display: flex; flex-wrap: wrap; gap: .6rem';
    for (let h = 0; h < 4; h++) box.append(draw.map(half, { values: a.p.slice(h * T * T, (h + 1) * T * T), rows: names, columns: names, most: 1, cell: 18, under: `head ${h}`, label: `What head ${h} looks at` }));
    return [`A token leaves ${a.cached} numbers in a layer; the heads' rows differ by ${(100 * a.apart).toFixed(0)} % of what is possible.`, box];
  },
});
