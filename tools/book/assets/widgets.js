/*
 * A figure that answers. A chapter's web/figures.js describes it:
 *
 *     figure('heat_map', {
 *       title: 'Your own words',            its heading
 *       at: 'figures/heat_map.svg',         behind which picture, or beneath which heading, it stands
 *       inputs: [...],                      text(), slider(), choice(): a name, a label, limits, a value
 *       draw(answer, width, inputs) {...}   what is shown: nodes, or a text, or a list of both
 *     });
 *
 * At each change of an input the chapter's function of the same name is asked. With run there is a
 * button that asks again and again, until answer.done or a press on stop: work that takes long; run is
 * what the button says. also() gives what is sent beside the inputs.
 *
 * Invariant: what is drawn belongs to the inputs that are shown; a late answer to an older question is
 * thrown away. section.told lists the pairs of inputs and answers that were drawn: the tests read it.
 */
'use strict';
const text = (name, label, value, most, hint = '') => ({ kind: 'text', name, label, value, most, hint });
const slider = (name, label, least, most, value, { step = 1, log = false, unit = '', show } = {}) =>
  ({ kind: 'range', name, label, least, most, value, step, log, unit, show });
const choice = (name, label, options, value = 0) => ({ kind: 'choice', name, label, options, value });

function figure(name, spec) {
  const section = document.querySelector(`[data-figure="${name}"]`);
  if (!section) return; /* it stands on another page of the chapter */
  const element = (tag, attributes = {}, ...inside) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    e.append(...inside);
    return e;
  };
  const absent = book.missing();
  if (absent) {
    section.append(element('p', { class: 'absent' }, `This browser lacks ${absent}, so the figure cannot answer here.`));
    return;
  }
  section.querySelector('.still').hidden = true;
  const form = element('form', { class: 'controls' }), views = element('div', { class: 'views' });
  const say = element('p', { class: 'say', role: 'status', 'aria-live': 'polite' });
  form.onsubmit = e => e.preventDefault();
  if (spec.about) section.append(element('p', { class: 'about' }, spec.about));
  section.append(form, say, views);

  /* ---- controls ---- */
  const inputs = {}, controls = {};
  const exact = (c, raw) => c.log ? Math.round(c.least * (c.most / c.least) ** (raw / 1000)) : Number(raw);
  for (const c of spec.inputs || []) {
    const id = `${name}-${c.name}`, label = element('label', { for: id, class: c.kind === 'text' ? 'long' : '' });
    let field;
    if (c.kind === 'choice') {
      field = element('select', { id }, ...c.options.map((o, i) => element('option', { value: i }, o)));
      field.value = c.value;
      label.append(c.label, field);
    } else if (c.kind === 'range') {
      field = element('input', c.log ? { id, type: 'range', min: 0, max: 1000, step: 1 } : { id, type: 'range', min: c.least, max: c.most, step: c.step });
      field.value = c.log ? Math.round(1000 * Math.log(c.value / c.least) / Math.log(c.most / c.least)) : c.value;
      const out = element('output', { for: id }), line = element('span', {}, `${c.label}: `, out);
      label.append(line, field);
      field.show = () => { out.textContent = (c.show ? c.show(inputs[c.name]) : inputs[c.name].toLocaleString('en')) + c.unit; };
    } else {
      field = element('input', { id, type: 'text', maxlength: c.most, spellcheck: 'false', autocomplete: 'off' });
      field.value = c.value;
      label.append(element('span', {}, c.label), field, element('small', {}, c.hint));
    }
    const read = () => {
      inputs[c.name] = c.kind === 'text' ? field.value : c.kind === 'choice' ? Number(field.value) : exact(c, field.value);
      if (c.kind === 'range' && c.log && field.value == Math.round(1000 * Math.log(c.value / c.least) / Math.log(c.most / c.least))) inputs[c.name] = c.value;
      if (field.show) field.show();
    };
    field.oninput = () => { read(); if (!spec.run) ask(); };
    controls[c.name] = { field, read };
    read();
    form.append(label);
  }

  /* ---- asking and drawing ---- */
  let asking = false, again = false, shown = null;
  const width = () => Math.max(240, Math.min(760, views.clientWidth || section.clientWidth - 40));
  section.told = [];
  function tell(answer, sent) {
    shown = { answer, inputs: sent };
    section.told.push([sent, answer]);
    if (section.told.length > 100) section.told.shift();
    show();
    section.dataset.answers = Number(section.dataset.answers || 0) + 1;
  }
  function show() {
    if (!shown) return;
    const made = [spec.draw(shown.answer, width(), shown.inputs)].flat().filter(x => x !== null && x !== undefined && x !== '');
    views.replaceChildren(...made.filter(x => typeof x !== 'string'));
    say.className = 'say';
    say.textContent = made.filter(x => typeof x === 'string').join(' ');
  }
  function broken(error) {
    say.className = 'say broken';
    say.textContent = `The program stopped: ${error.message}`;
  }
  async function ask() {
    again = true;
    if (asking) return;
    asking = true;
    while (again) {
      again = false;
      const sent = { ...inputs };
      try {
        const answer = await book.call(spec.ask || name, sent);
        if (!again) tell(answer, sent);
      } catch (e) { if (!again) broken(e); }
    }
    asking = false;
  }

  /* ---- work that takes long: one call after the other, until it is done or stopped ---- */
  function runnable() {
    const button = element('button', { type: 'button', class: 'go' }, spec.run), bar = element('progress', { max: 1, value: 0, hidden: '' });
    let running = false;
    button.onclick = async () => {
      if (running) { running = false; return; }
      running = true;
      button.textContent = 'stop';
      bar.hidden = false;
      try {
        for (let step = 0; running; step++) {
          const sent = { ...inputs, ...(spec.also ? spec.also() : {}), step };
          const answer = await book.call(spec.ask || name, sent);
          bar.value = answer.progress ?? 0;
          tell(answer, sent);
          if (answer.done) break;
        }
      } catch (e) { broken(e); }
      running = false;
      bar.hidden = true;
      button.textContent = spec.run;
      section.dataset.runs = Number(section.dataset.runs || 0) + 1;
    };
    form.append(button);
    form.after(bar);
  }
  addEventListener('resize', show);
  if (spec.run) runnable();
  if (spec.run && spec.idle) say.textContent = spec.idle;
  if (!spec.run) {
    /* Near the screen it answers; far below it waits, so that a page with many does not begin with all. */
    const seen = new IntersectionObserver(entries => {
      if (entries.some(e => e.isIntersecting)) { seen.disconnect(); ask(); }
    }, { rootMargin: '600px' });
    seen.observe(section);
  }
  section.set = (key, value) => { /* for the tests: as a reader would */
    const { field } = controls[key];
    field.value = value;
    field.dispatchEvent(new Event('input'));
  };
}
