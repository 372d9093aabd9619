/* Figures of chapter 05. */
'use strict';

const experts = Array.from({ length: 8 }, (_, e) => `e${e}`);

figure('router', {
  title: 'Who sees this token?',
  at: 'The router|The formulas|The mathematics',
  about: 'router_choose() on six tokens with random logits. Framed: the chosen, with weights.',
  inputs: [
    choice('scoring', 'scores', ['softmax', 'sigmoid'], 1),
    slider('top_k', 'experts for a token', 1, 4, 2), choice('groups', 'groups', ['1', '2', '4'], 0),
    slider('topk_group', 'groups that stay', 1, 4, 2),
    slider('bias', 'bias of expert 0', -1, 1, 0, { step: 0.05 }),
  ],
  draw(a, width) {
    const rows = Array.from({ length: 6 }, (_, i) => `token ${i}`);
    const mark = (i, j) => a.chosen[i * 8 + j] > 0;
    const map = (values, under, label) => draw.map(width,
      { values, rows, columns: experts, digits: 2, cell: 44, most: 1, mark, under, label });
    return [
      `Tokens of experts 0 to 7: ${a.counts.join(', ')}. The bias moves who is chosen, never a `
        + 'weight.',
      map(a.scores, 'the scores', 'Scores of eight experts for six tokens'),
      map(a.chosen, 'the weights: scores of the chosen, made to sum to 1', 'Weights of the chosen'),
    ];
  },
});

figure('balance', {
  title: 'Two models learn this page',
  at: 'figures/load.svg',
  about: 'Two small decoders with 8 experts, 2 of them for each character, from the same weights, '
    + 'on the text of this page. 200 steps of AdamW each; the last layer is shown.',
  run: 'train',
  inputs: [slider('gamma', 'γ, how far the bias moves in a step', 0, 0.1, 0.02, { step: 0.005 })],
  /* The page's own text, in letters that are not too many. */
  also() {
    const parts = [...document.querySelectorAll('main > p, main > ul')].map(p => p.textContent);
    return { text: parts.join(' ').toLowerCase().replace(/[^a-z .,]+/g, ' ').slice(0, 30000) };
  },
  draw(a, width, inputs, run) {
    const busiest = from => `${(100 * Math.max(...a.share.slice(from, from + 8))).toFixed(0)} %`;
    const load = (name, of) => draw.map(width > 560 ? (width - 20) / 2 : width, {
      values: experts.flatMap((_, e) => run.map(r => r.share[of * 8 + e])), rows: experts,
      columns: run.map(() => ''), most: 0.5, cell: 22,
      under: `${name}: MaxVio ${a.max_vio[of].toFixed(2)}`,
      label: `Each expert's share of the choices over the steps, ${name}`,
    });
    const line = (name, of) => ({ name, points: run.map(r => [r.steps, r.loss[of]]) });
    return [
      `Step ${a.steps}: loss ${a.loss[0].toFixed(2)} left alone, ${a.loss[1].toFixed(2)} balanced; `
        + `the busiest expert has ${busiest(0)} against ${busiest(8)} of the choices (even: `
        + '12.5 %).',
      draw.side(load('left alone', 0), load('balanced by the bias', 1)),
      run.length > 1 && draw.chart(width, {
        lines: [line('left alone', 0), line('balanced', 1)], x: 'step', y: 'loss', height: 180,
        label: 'Loss of both models against the step',
      }),
    ];
  },
});
