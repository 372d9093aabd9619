/* Figures of chapter 09. */
'use strict';

figure('group', {
  title: 'Four answers, or as many as you like',
  at: 'Four answers on paper',
  about: 'advantages_of() on your rewards.',
  inputs: [text('rewards', 'Rewards of one question\'s answers', '1 0 0 0', 120, '2 to 32 numbers'), choice('scale', 'divided by the deviation', ['yes (GRPO)', 'no (Dr. GRPO, V3.2)'], 0)],
  draw(a, width) {
    if (a.count < 2) return 'One answer has no siblings to be compared with: write two rewards at least.';
    const most = Math.max(...a.advantages.map(Math.abs), 1e-9), n = x => String(+x.toFixed(3));
    const table = document.createElement('table'), half = Math.max(50, Math.min(170, (width - 190) / 2));
    table.innerHTML = '<tr><th>reward<th>advantage<th></tr>' + a.rewards.map((r, i) => `<tr><td>${n(r)}<td>${n(a.advantages[i])}<td></tr>`).join('');
    a.advantages.forEach((v, i) => {
      const svg = draw.canvas(2 * half, 16, ''), length = half * Math.abs(v) / most;
      svg.append(draw.node('line', { class: 'axis', x1: half, x2: half, y1: 0, y2: 16 }), draw.node('rect', { x: v < 0 ? half - length : half, y: 2, width: length, height: 12, rx: 2, fill: v < 0 ? 'var(--two)' : 'var(--one)' }));
      table.rows[i + 1].cells[2].append(svg);
    });
    return [`Mean ${n(a.mean)}, deviation ${n(a.std)}.${most < 1e-6 ? ' All are alike: this group teaches nothing.' : ''}`, table];
  },
});

figure('learn', {
  title: 'Ask, draw, reward, learn',
  at: 'From answers to a gradient',
  about: 'A policy of ten numbers, one for each answer. Answer 7 is right. Each step draws a group, and its policy loss goes backward through the tape.',
  run: 'let it learn',
  inputs: [slider('group', 'answers drawn', 2, 16, 4), slider('rate', 'learning rate', 0.5, 20, 3, { step: 0.5 }), choice('generous', 'reward', ['1 for 7, else 0', 'also 0.3 for other odd answers'], 0)],
  draw(a, width, { step }, learned) {
    const names = a.before.map((_, i) => `answer ${i}`), n = x => x.toFixed(2);
    return [
      `Step ${step + 1}: drew ${a.drawn.join(', ')}; rewards ${a.rewards.map(r => +r.toFixed(1)).join(', ')}; advantages ${a.advantages.map(n).join(', ')}. Answer 7 is ${(100 * a.after[a.right]).toFixed(0)} % likely now.`,
      draw.bars(width, { most: 1, label: 'How likely each answer is after the step', rows: names.map((name, i) => ({ name, value: a.after[i], note: `${(100 * a.after[i]).toFixed(0)} %  ${a.after[i] >= a.before[i] ? '+' : '−'}${(100 * Math.abs(a.after[i] - a.before[i])).toFixed(1)}`, colour: i === a.right ? 'var(--three)' : 'var(--one)' })) }),
      learned.length > 1 ? draw.chart(width, { height: 170, low: 0, high: 1, x: 'step', y: 'likely', label: 'How likely the right answer is against the step', lines: [{ name: 'right answer', points: learned.map((l, i) => [i + 1, l.after[l.right]]) }] }) : '',
    ];
  },
});

figure('clip', {
  title: 'When the policy has moved: who still pulls?',
  at: 'When the policy has moved',
  about: 'policy_clipped(), policy_cispo(), policy_sapo(): the pull is how hard a token\'s log-probability is pushed up, or down where it is negative.',
  inputs: [
    slider('advantage', 'advantage', -2, 2, 1, { step: 0.25 }), slider('epsilon', 'epsilon', 0, 1, 0.2, { step: 0.05 }),
    slider('epsilon_high', 'epsilon_high', 0, 3, 0.2, { step: 0.05 }), slider('cap', 'cap of cispo', 1, 5, 2, { step: 0.25 }),
  ],
  draw(a, width) {
    const n = a.ratio.length, names = ['clip (GRPO, PPO)', 'cispo', 'sapo'];
    const at = r => a.pull.slice(0, n)[a.ratio.findIndex(x => x >= r)].toFixed(2);
    return [`The clip pulls with ${at(0.7)} at a ratio of 0.7, ${at(1)} at 1 and ${at(1.5)} at 1.5.`, draw.chart(width, { lines: names.map((name, t) => ({ name, points: a.ratio.map((r, i) => [r, a.pull[t * n + i]]) })), x: 'ratio π / π_old', y: 'pull', label: 'Pull on the log-probability against the ratio for three objectives', at: 1 })];
  },
});
