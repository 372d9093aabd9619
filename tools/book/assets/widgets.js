/*
 * A figure that answers. A chapter's web/figures.js describes it:
 *
 *     figure('heat_map', {
 *       title: 'Your own words',            its heading
 *       at: 'figures/heat_map.svg',         behind which picture, or below which heading's text
 *       inputs: [...],                      text(), slider(), choice(): name, label, limits, value
 *       draw(answer, width, inputs) {...}   what is shown: nodes, or a text, or a list of both; a
 *                                           fourth argument is the list of all answers of a run
 *     });
 *
 * At each change of an input the chapter's function of the same name (or of that which `ask` says)
 * is asked. With `run`, the words on a button, it is asked when that is pressed, again and again,
 * until answer.done or a press on stop: work that takes long. also() gives what is sent beside the
 * inputs.
 *
 * Invariant: what is drawn belongs to the inputs that are shown; a late answer to an older question
 * is thrown away. section.told lists what was asked and answered: the tests read it.
 */
'use strict';
const text = (name, label, value, most, hint = '') =>
  ({ kind: 'text', name, label, value, most, hint });
const slider = (name, label, least, most, value, { step = 1, log = false, show } = {}) =>
  ({ kind: 'range', name, label, least, most, value, step, log, show });
const choice = (name, label, options, value = 0) =>
  ({ kind: 'choice', name, label, options, value });

const element = (tag, attributes = {}, ...inside) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...inside);
  return e;
};

/* ---- inputs: each makes { label, field, read() } ---- */

const controls = {
  choice(c, id) {
    const options = c.options.map((o, i) => element('option', { value: i }, o));
    const field = element('select', { id }, ...options);
    field.value = c.value;
    const label = element('label', { for: id }, c.label, field);
    return { label, field, read: () => Number(field.value) };
  },
  /* In logarithms a slider has a thousand places; its own value stays exact. */
  range(c, id) {
    const decades = Math.log(c.most / c.least);
    const place = v => c.log ? Math.round(1000 * Math.log(v / c.least) / decades) : v;
    const limits = c.log ? { min: 0, max: 1000 } : { min: c.least, max: c.most, step: c.step };
    const field = element('input', { id, type: 'range', ...limits });
    const out = element('output', { for: id });
    const label = element('label', { for: id }, element('span', {}, `${c.label}: `, out), field);
    field.value = place(c.value);
    const read = () => {
      const at = Number(field.value);
      const value = !c.log ? at : at === place(c.value) ? c.value
        : Math.round(c.least * (c.most / c.least) ** (at / 1000));
      out.textContent = c.show ? c.show(value) : value.toLocaleString('en');
      return value;
    };
    return { label, field, read };
  },
  text(c, id) {
    const field = element('input',
      { id, type: 'text', maxlength: c.most, spellcheck: 'false', autocomplete: 'off' });
    field.value = c.value;
    const hint = element('small', {}, c.hint);
    const label = element('label', { for: id, class: 'long' }, c.label, field, hint);
    return { label, field, read: () => field.value };
  },
};

function figure(name, spec) {
  const section = document.querySelector(`[data-figure="${name}"]`);
  if (!section) return; /* it stands on another page of the chapter */
  const absent = book.missing();
  if (absent) {
    section.append(element('p', { class: 'absent' },
      `This browser lacks ${absent}, so the figure cannot answer here.`));
    return;
  }
  section.querySelector('.still').hidden = true;
  const form = element('form', { class: 'controls' }), views = element('div', { class: 'views' });
  const say = element('p', { class: 'say', role: 'status', 'aria-live': 'polite' });
  const bar = element('progress', { hidden: '', 'aria-label': 'progress' });
  const stop = element('button', { type: 'button', hidden: '' }, 'stop');
  if (spec.about) section.append(element('p', { class: 'about' }, spec.about));
  section.append(form, element('p', { class: 'working' }, bar, stop), say, views);
  stop.onclick = () => book.stop();
  form.onsubmit = e => e.preventDefault();

  const inputs = {}, fields = {};
  for (const c of spec.inputs || []) {
    const { label, field, read } = controls[c.kind](c, `${name}-${c.name}`);
    field.oninput = () => {
      inputs[c.name] = read();
      if (!spec.run) ask();
    };
    inputs[c.name] = read();
    fields[c.name] = field;
    form.append(label);
  }

  /* ---- asking and drawing ---- */

  let asking = false, again = false, shown = null, sofar = [];
  section.told = [];
  const room = () => Math.max(240, Math.min(760, views.clientWidth || section.clientWidth - 40));
  function show() {
    if (!shown) return;
    const made = [spec.draw(shown.answer, room(), shown.sent, sofar)].flat().filter(x => x);
    views.replaceChildren(...made.filter(x => typeof x !== 'string'));
    say.className = 'say';
    say.textContent = made.filter(x => typeof x === 'string').join(' ');
  }
  function tell(answer, sent) {
    shown = { answer, sent };
    sofar = sent.step ? [...sofar, answer] : [answer];
    section.told.push([sent, answer]);
    if (section.told.length > 100) section.told.shift();
    show();
    section.dataset.answers = Number(section.dataset.answers || 0) + 1;
  }
  function broken(error) {
    say.className = 'say broken';
    say.textContent = `The program stopped: ${error.message}`;
  }
  /* What takes longer than a glance says so, and can be stopped. */
  function working(on) {
    bar.hidden = stop.hidden = !on;
  }
  async function ask() {
    again = true;
    if (asking) return;
    asking = true;
    const late = setTimeout(working, 150, true);
    while (again) {
      again = false;
      const sent = { ...inputs };
      try {
        const answer = await book.call(spec.ask || name, sent);
        if (!again) tell(answer, sent);
      } catch (e) {
        if (!again) broken(e);
      }
    }
    clearTimeout(late);
    working(false);
    asking = false;
  }

  /* ---- work that takes long ---- */

  function runnable() {
    const button = element('button', { type: 'button', class: 'go' }, spec.run);
    let running = false;
    async function run() {
      for (let step = 0; running; step++) {
        const sent = { ...inputs, ...(spec.also ? spec.also() : {}), step };
        const answer = await book.call(spec.ask || name, sent);
        bar.value = answer.progress ?? 0;
        tell(answer, sent);
        if (answer.done) running = false;
      }
    }
    button.onclick = async () => {
      running = !running;
      if (!running) return; /* the loop above sees it after its step */
      button.textContent = 'stop';
      bar.value = 0;
      bar.hidden = false;
      try {
        await run();
      } catch (e) {
        broken(e);
      }
      running = false;
      bar.hidden = true;
      button.textContent = spec.run;
      section.dataset.runs = Number(section.dataset.runs || 0) + 1;
    };
    form.append(button);
  }

  /* Near the screen a figure answers; far below it waits, so that a page begins with its first. */
  function whenSeen() {
    const seen = new IntersectionObserver(entries => {
      if (!entries.some(e => e.isIntersecting)) return;
      seen.disconnect();
      ask();
    }, { rootMargin: '600px' });
    seen.observe(section);
  }
  addEventListener('resize', show);
  if (spec.run) runnable();
  else whenSeen();
  section.set = (key, value) => { /* for the tests: as a reader would */
    fields[key].value = value;
    fields[key].dispatchEvent(new Event('input'));
  };
}
