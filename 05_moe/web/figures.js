/* Figures of chapter 05. */
'use strict';

const experts = Array.from({ length: 8 }, (_, e) => `e${e}`);

figure('router', {
  title: 'Who sees this token?',
  at: 'The formulas',
  about: 'router_choose() on six tokens with random logits. Framed: the chosen, with their weights.',
  inputs: [
    choice('scoring', 'scores', ['softmax', 'sigmoid'], 1), slider('top_k', 'experts for a token', 1, 4, 2),
    choice('groups', 'groups', ['1', '2', '4'], 0), slider('topk_group', 'groups that stay', 1, 4, 2),
    slider('bias', 'bias of expert 0', -1, 1, 0, { step: 0.05 }),
  ],
  draw(a, width) {
    const names = Array.from({ length: 6 }, (_, i) => `token ${i}`), chosen = (i, j) => a.chosen[i * 8 + j] > 0;
    return [
      `Tokens of experts 0 to 7: ${a.counts.join(', ')}. The bias moves who is chosen, never a weight.`,
      draw.map(width, { values: a.scores, rows: names, columns: experts, digits: 2, cell: 44, most: 1, mark: chosen, under: 'the scores', label: 'Scores of eight experts for six tokens' }),
      draw.map(width, { values: a.chosen, rows: names, columns: experts, digits: 2, cell: 44, most: 1, mark: chosen, under: 'the weights: scores of the chosen, made to sum to 1', label: 'Weights of the chosen experts' }),
    ];
  },
});

figure('balance', {
  title: 'Two models learn this page',
  at: 'figures/load.svg',
  about: 'Two small decoders with 8 experts, 2 of them for each character, from the same weights, on the text of this page. 200 steps of AdamW each; the last layer is shown.',
  run: 'train',
  inputs: [slider('gamma', 'γ, how far the bias moves in a step', 0, 0.1, 0.02, { step: 0.005 })],
  /* What is sent beside the inputs: the text, in letters that are not too many. */
  also: () => ({ text: [...document.querySelectorAll('main > p, main > ul')].map(p => p.textContent).join(' ').toLowerCase().replace(/[^a-z .,]+/g, ' ').slice(0, 30000) }),
  draw(a, width, inputs, windows) {
    const columns = windows.map(() => ''), half = width > 560 ? (width - 20) / 2 : width;
    const box = document.createElement('div');
    box.style.cssText = 'display: flex; flex-wrap: wrap; gap: 1rem';
    ['left alone', 'balanced by the bias'].forEach((name, run) => box.append(draw.map(half, {
      values: experts.flatMap((_, e) => windows.map(w => w.share[run * 8 + e])), rows: experts, columns, most: 0.5, cell: 22,
      under: `${name}: MaxVio ${a.max_vio[run].toFixed(2)}`, label: `Each expert's share of the choices over the steps, ${name}`,
    })));
    const line = (name, run) => ({ name, points: windows.map(w => [w.steps, w.loss[run]]) });
    return [
      `Step ${a.steps}: loss ${a.loss[0].toFixed(2)} left alone, ${a.loss[1].toFixed(2)} balanced; the busiest expert has ${(100 * Math.max(...a.share.slice(0, 8))).toFixed(0)} % against ${(100 * Math.max(...a.share.slice(8))).toFixed(0)} % of the choices (even: 12.5 %).`,
      box,
      windows.length > 1 ? draw.chart(width, { lines: [line('left alone', 0), line('balanced', 1)], x: 'step', y: 'loss', height: 180, label: 'Loss of both models against the step' }) : '',
    ];
  },
});
