/*
 * A chart's numbers, drawn again in the page: beneath each picture stands the table of the CSV file
 * that it was made from; when it is opened, the reader chooses what is drawn against what.
 *
 * Invariant: the table is all there is; what is drawn is read from it.
 */
'use strict';
function drawAgain({ currentTarget: details }) {
  const table = details.querySelector('table');
  const names = [...table.rows[0].cells].map(c => c.textContent);
  const rows = [...table.rows].slice(1).map(r => [...r.cells].map(c => c.textContent));
  const numeric = names.map((_, i) => rows.every(r => r[i] === '' || !Number.isNaN(Number(r[i]))));
  const different = i => new Set(rows.map(r => r[i])).size;
  const numbers = names.map((_, i) => i).filter(i => numeric[i] && different(i) > 1);
  if (numbers.length < 2 || rows.length < 2) return;

  const form = document.createElement('form'), place = document.createElement('div');
  form.className = 'controls';
  place.className = 'figure';
  const choose = (label, options, value) => {
    const select = document.createElement('select'), line = document.createElement('label');
    for (const [v, name] of options) select.add(new Option(name, v, false, v === value));
    select.onchange = show;
    line.append(label, select);
    form.append(line);
    return select;
  };
  const columns = numbers.map(i => [String(i), names[i]]);
  const kinds = names.map((n, i) => [String(i), n]).filter(([i]) => different(i) <= 12);
  const few = kinds.find(([i]) => !numeric[i]);
  /* At first: the last column against the one with the most different numbers of the others. */
  const last = numbers[numbers.length - 1];
  const most = Math.max(...numbers.filter(i => i !== last).map(different));
  const y = choose('draw', columns, String(last));
  const x = choose('against', columns, String(numbers.find(i => different(i) === most)));
  const by = choose('a line for each', [['', '(all in one)'], ...kinds], few ? few[0] : '');
  const axes = choose('axes',
    [['', 'plain'], ['x', 'log x'], ['y', 'log y'], ['xy', 'log both']], '');

  function show() {
    const groups = new Map();
    for (const r of rows) {
      if (r[x.value] === '' || r[y.value] === '') continue;
      const key = by.value ? r[by.value] : names[y.value];
      groups.set(key, [...groups.get(key) || [], [Number(r[x.value]), Number(r[y.value])]]);
    }
    const rising = points => points.sort((a, b) => a[0] - b[0]);
    const lines = [...groups].map(([name, points]) => ({ name, points: rising(points) }));
    const width = Math.max(240, Math.min(760, place.clientWidth - 40));
    place.replaceChildren(form, draw.chart(width, {
      lines, x: names[x.value], y: names[y.value], logx: axes.value.includes('x'),
      logy: axes.value.includes('y'), label: `${names[y.value]} against ${names[x.value]}`,
    }));
  }
  table.parentElement.before(place);
  show();
}
for (const details of document.querySelectorAll('details.numbers'))
  details.addEventListener('toggle', drawAgain, { once: true });
