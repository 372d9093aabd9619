/*
 * What every page has: light and dark, search, the section in view, and predictions that are
 * graded. A page without scripts loses these and no word of the lesson.
 */
'use strict';
(() => {
  const root = document.body.dataset.root, tools = document.querySelector('.tools');
  document.body.classList.add('script');
  const make = (tag, attributes = {}, ...inside) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    e.append(...inside);
    return e;
  };

  /* ---- light and dark: what the system says, until the button says otherwise ---- */
  const stored = f => { try { return f(localStorage); } catch { return null; } }; /* or forbidden */
  const kept = stored(s => s.getItem('theme'));
  if (kept) document.documentElement.dataset.theme = kept;
  const theme = make('button', { type: 'button', 'aria-label': 'light or dark' }, '◐');
  theme.onclick = () => {
    const html = document.documentElement, now = html.dataset.theme ||
      (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
    html.dataset.theme = now === 'dark' ? 'light' : 'dark';
    stored(s => s.setItem('theme', html.dataset.theme));
  };

  /* ---- search: all words must be in a section; its heading counts more than its text ---- */
  let sections = null;
  /* search.js calls this: [page, anchor, title, heading, words] of each section. */
  window.bookSearch = list => {
    sections = list.map(s => [...s, `${s[2]} ${s[3]}`.toLowerCase(), s[4].toLowerCase()]);
    find();
  };
  const field = make('input',
    { type: 'search', placeholder: 'Search', 'aria-label': 'Search the book' });
  const list = make('ol', { hidden: '' });
  const load = () => {
    if (document.querySelector('[data-search]')) return;
    document.body.append(make('script', { src: `${root}/assets/search.js`, 'data-search': '' }));
  };
  const around = (text, low, word) => {
    const at = Math.max(0, low.indexOf(word) - 50), piece = text.slice(at, at + 150);
    const i = piece.toLowerCase().indexOf(word), end = i + word.length;
    return i < 0 ? [piece]
      : [piece.slice(0, i), make('b', {}, piece.slice(i, end)), piece.slice(end)];
  };
  function find() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.hidden = !words.length || !sections;
    if (list.hidden) return;
    const worth = (s, w) => s[5].includes(w) ? 10 : s[6].includes(w) ? 1 : -1000;
    const score = s => words.reduce((sum, w) => sum + worth(s, w), 0);
    const found = sections.map(s => [score(s), s]).filter(f => f[0] > 0);
    const entry = s => make('li', {}, make('a', { href: `${root}/${s[0]}#${s[1]}` },
      s[3] === s[2] ? s[2] : `${s[2]}: ${s[3]}`,
      make('small', {}, ...around(s[4], s[6], words[0]))));
    found.sort((a, b) => b[0] - a[0]);
    list.replaceChildren(...found.slice(0, 20).map(([, s]) => entry(s)));
    if (!found.length) list.append(make('li', {}, 'nothing found'));
  }
  field.onfocus = load;
  field.oninput = () => { load(); find(); };
  document.addEventListener('keydown', e => {
    if (e.key === '/' && !/INPUT|TEXTAREA|SELECT/.test(e.target.tagName)) {
      e.preventDefault();
      field.focus();
    } else if (e.key === 'Escape') {
      list.hidden = true;
      field.blur();
    }
  });
  document.addEventListener('click', e => {
    if (!e.target.closest('.search')) list.hidden = true;
  });
  tools.append(make('span', { class: 'search' }, field, list), theme);

  /* ---- contents: folded on a small screen; the section in view is marked ---- */
  const fold = document.querySelector('.fold');
  if (matchMedia('(max-width: 62rem)').matches) fold.open = false;
  const here = [...document.querySelectorAll('.here a')];
  const entries = new Map(here.map(a => [a.hash.slice(1), a.parentElement]));
  const mark = () => {
    let now = null;
    for (const id of entries.keys()) {
      const h = document.getElementById(decodeURIComponent(id));
      if (h && h.getBoundingClientRect().top < 120) now = id;
    }
    for (const [id, li] of entries) li.classList.toggle('now', id === now);
  };
  let waiting = false;
  addEventListener('scroll', () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; mark(); });
    waiting = true;
  }, { passive: true });

  /* ---- predictions: "3 * 2^10", "2,048" and "1e6" are numbers, too ---- */
  const number = text => {
    const clean = text.replace(/,(?=\d{3})/g, '').replace(/×/g, '*').replace(/−/g, '-')
      .replace(/\^/g, '**').trim();
    if (!/^[\d.eE+\-*/() ]+$/.test(clean) || /[eE](?![+\-]?\d)/.test(clean)) return NaN;
    try { return Number(Function(`"use strict"; return (${clean});`)()); } catch { return NaN; }
  };
  for (const form of document.querySelectorAll('.predict')) form.onsubmit = e => {
    e.preventDefault();
    const answers = JSON.parse(atob(form.dataset.answers));
    const rows = [...form.querySelectorAll('label')];
    let right = 0;
    rows.forEach((row, i) => {
      const [whole, want] = answers[i], out = row.querySelector('output');
      const written = row.querySelector('input').value.trim(), given = number(written);
      const ok = Math.abs(given - want) <= (whole ? 0 : 5e-3 * Math.abs(want) + 1e-4);
      out.textContent = ok ? ' ✓' : !written ? '' : Number.isNaN(given) ? ' is no number' : ' ✗';
      out.className = ok ? 'right' : 'wrong';
      right += ok;
    });
    form.querySelector('.verdict').textContent = right === rows.length ? 'All right.'
      : `${right} of ${rows.length} right.` + (right ? '' : ' The hints below help.');
  };
})();
