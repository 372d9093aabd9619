/* Figures of chapter 09. */
'use strict';

figure('group', {
  title: 'Four answers, or as many as you like',
  at: 'Four answers|By hand',
  about: 'advantages_of() on your rewards.',
  inputs: [
    text('rewards', 'Rewards of one question\'s answers', '1 0 0 0', 120,
      '2 to 32 numbers between -1,000 and 1,000'),
    choice('scale', 'divided by the deviation', ['yes (GRPO)', 'no (Dr. GRPO, V3.2)'], 0),
  ],
  draw(a, width) {
    if (a.count < 2) return 'One answer has no siblings to be compared with: write two rewards.';
    const most = Math.max(...a.advantages.map(Math.abs), 1e-9), n = x => String(+x.toFixed(3));
    const half = Math.max(50, Math.min(170, (width - 190) / 2));
    const bar = v => {
      const svg = draw.canvas(2 * half, 16, n(v)), length = half * Math.abs(v) / most;
      svg.append(
        draw.node('line', { class: 'axis', x1: half, x2: half, y1: 0, y2: 16 }),
        draw.node('rect', {
          x: v < 0 ? half - length : half, y: 2, width: length, height: 12, rx: 2,
          fill: v < 0 ? 'var(--two)' : 'var(--one)',
        }));
      return svg;
    };
    return [
      `Mean ${n(a.mean)}, deviation ${n(a.std)}.`,
      most < 1e-6 && 'All are alike: this group teaches nothing.',
      draw.table(['reward', 'advantage', ''],
        a.rewards.map((r, i) => [n(r), n(a.advantages[i]), bar(a.advantages[i])])),
    ];
  },
});

figure('learn', {
  title: 'Ask, draw, reward, learn',
  at: 'to a gradient|The mathematics',
  picture: 'figures/reward.svg',
  about: 'A policy of ten numbers, one for each answer. Answer 7 is right. Each step draws a '
    + 'group, and its policy loss goes backward through the tape.',
  run: 'let it learn',
  inputs: [
    slider('group', 'answers drawn', 2, 16, 4),
    slider('rate', 'learning rate', 0.5, 20, 3, { step: 0.5 }),
    choice('generous', 'reward', ['1 for 7, else 0', 'also 0.3 for other odd answers'], 0),
  ],
  draw(a, width, { step }, run) {
    const list = (numbers, digits) => numbers.map(x => +x.toFixed(digits)).join(', ');
    const percent = x => `${(100 * x).toFixed(0)} %`;
    const row = (after, i) => {
      const change = after - a.before[i], sign = change < 0 ? '−' : '+';
      const note = `${percent(after)}  ${sign}${(100 * Math.abs(change)).toFixed(1)}`;
      const colour = i === a.right ? 'var(--three)' : 'var(--one)';
      return { name: `answer ${i}`, value: after, note, colour };
    };
    return [
      `Step ${step + 1}: drew ${a.drawn.join(', ')}; rewards ${list(a.rewards, 1)}; advantages `
        + `${list(a.advantages, 2)}. Answer 7 is ${percent(a.after[a.right])} likely now.`,
      draw.bars(width, {
        most: 1, label: 'How likely each answer is after the step', rows: a.after.map(row),
      }),
      run.length > 1 && draw.chart(width, {
        lines: [{ name: 'right answer', points: run.map((r, i) => [i + 1, r.after[r.right]]) }],
        height: 170, low: 0, high: 1, x: 'step', y: 'likely',
        label: 'How likely the right answer is against the step',
      }),
    ];
  },
});

figure('clip', {
  title: 'When the policy has moved: who still pulls?',
  at: 'the policy has moved|The mathematics',
  about: 'policy_clipped(), policy_cispo(), policy_sapo(): the pull is how hard a token\'s '
    + 'log-probability is pushed up, or down where it is negative.',
  inputs: [
    slider('advantage', 'advantage', -2, 2, 1, { step: 0.25 }),
    slider('epsilon', 'epsilon', 0, 1, 0.2, { step: 0.05 }),
    slider('epsilon_high', 'epsilon_high', 0, 3, 0.2, { step: 0.05 }),
    slider('cap', 'cap of cispo', 1, 5, 2, { step: 0.25 }),
  ],
  draw(a, width) {
    const n = a.ratio.length, at = r => a.pull[a.ratio.findIndex(x => x >= r)].toFixed(2);
    const line = (name, t) => ({ name, points: a.ratio.map((r, i) => [r, a.pull[t * n + i]]) });
    return [
      `The clip pulls with ${at(0.7)} at a ratio of 0.7, ${at(1)} at 1 and ${at(1.5)} at 1.5.`,
      draw.chart(width, {
        lines: ['clip (GRPO, PPO)', 'cispo', 'sapo'].map(line), x: 'ratio π / π_old', y: 'pull',
        at: 1, label: 'Pull on the log-probability against the ratio for three objectives',
      }),
    ];
  },
});
