/*
 * Pictures of numbers in SVG: lines, bars, maps of cells. Each is drawn for the width there is, so
 * letters keep their size on a phone. What a picture shows stands in its aria-label, and each mark
 * has its number as a title, under the pointer. Colours are the style sheet's; lines differ by
 * dashes, too.
 */
'use strict';
const draw = (() => {
  const NS = 'http://www.w3.org/2000/svg';
  const colours = ['var(--one)', 'var(--two)', 'var(--three)', 'var(--four)', 'var(--quiet)'];
  const dashes = ['', '6 3', '2 3', '8 3 2 3', '1 4'];

  function node(tag, attributes, ...inside) {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) if (v !== undefined) e.setAttribute(k, v);
    e.append(...inside);
    return e;
  }
  const text = (x, y, s, more = {}) => node('text', { x, y, ...more }, String(s));
  const titled = (e, s) => {
    e.append(node('title', {}, s));
    return e;
  };
  const canvas = (width, height, label) => node('svg',
    { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });

  /* 1234567 -> "1.23 M": three digits are enough beside a picture. */
  function short(x) {
    if (x === null || Number.isNaN(x)) return '–';
    const a = Math.abs(x);
    for (const [size, name] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e4, 'k']])
      if (a >= size) return `${+(x / (size === 1e4 ? 1e3 : size)).toPrecision(3)} ${name}`;
    return a && a < 1e-3 ? x.toExponential(1) : String(+x.toPrecision(3));
  }

  /* 70272 -> "68.6 KiB" */
  function bytes(b) {
    const units = [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']];
    for (const [size, name] of units)
      if (b >= size) return `${(b / size).toFixed(1)} ${name}`;
    return `${b} bytes`;
  }

  /* Round numbers within [low, high], about `wanted` of them. */
  function ticks(low, high, wanted, log) {
    const out = [];
    if (log) {
      const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
      const step = Math.max(1, Math.ceil((last - first) / wanted));
      for (let e = first; e <= last; e += step) out.push(10 ** e);
      return out.length > 1 ? out : [low, high];
    }
    const raw = (high - low) / wanted, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(f => f * base).find(s => s >= raw) || raw;
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step)
      out.push(+t.toPrecision(12));
    return out;
  }

  function scale(low, high, from, to, log) {
    const f = log ? Math.log : x => x, a = f(low), b = f(high);
    return x => from + (f(x) - a) / (b - a || 1) * (to - from);
  }

  /* ---- lines ---- */

  /* Names with a piece of their line, as many in a row as there is room for. */
  function legend(svg, lines, across, colour) {
    lines.forEach((l, i) => {
      const x = (i % across) * 190 + 4, y = 14 + 18 * Math.floor(i / across);
      svg.append(
        node('line', {
          x1: x, x2: x + 22, y1: y - 4, y2: y - 4, stroke: colour(i), 'stroke-width': 2,
          'stroke-dasharray': dashes[i % 5],
        }),
        text(x + 28, y, l.name));
    });
  }

  /*
   * lines: [{ name, points: [[x, y], ...] }]; x, y: what the axes are; low, high: limits that y has
   * at least; at: a vertical line; dot: a point with a ring.
   */
  function chart(width, spec) {
    const { lines, x = '', y = '', logx, logy, label, height = 260, low, high, at, dot } = spec;
    const drawn = p => p[1] !== null && (!logy || p[1] > 0) && (!logx || p[0] > 0);
    const all = lines.flatMap(l => l.points).filter(drawn);
    const xs = all.map(p => p[0]), ys = all.map(p => p[1]);
    const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = low ?? Math.min(...ys);
    const most = Math.max(high ?? -Infinity, ...ys), y1 = most === y0 ? y0 + 1 : most;
    const many = lines.length > 1, across = Math.max(1, Math.floor(width / 190));
    const names = many ? 18 * Math.ceil(lines.length / across) : 0;
    const left = 52, right = width - 12, bottom = height - 42;
    const top = 12 + names + (y && many ? 12 : 0);
    const px = scale(x0, x1, left, right, logx), py = scale(y0, y1, bottom, top, logy);
    const colour = i => colours[i % 5], svg = canvas(width, height, label);
    for (const t of ticks(y0, y1, 5, logy)) svg.append(
      node('line', { class: 'axis', x1: left, x2: right, y1: py(t), y2: py(t) }),
      text(left - 6, py(t) + 4, short(t), { 'text-anchor': 'end', class: 'q' }));
    for (const t of ticks(x0, x1, Math.max(3, width / 110), logx))
      svg.append(text(px(t), bottom + 16, short(t), { 'text-anchor': 'middle', class: 'q' }));
    svg.append(
      text((left + right) / 2, height - 6, x, { 'text-anchor': 'middle', class: 'q' }),
      text(4, top - 4, y, { class: 'q' }));
    if (at >= x0 && at <= x1) svg.append(
      node('line', { x1: px(at), x2: px(at), y1: top, y2: bottom, stroke: 'var(--mark)' }));
    lines.forEach((l, i) => {
      const points = l.points.filter(drawn).map(p => [px(p[0]).toFixed(1), py(p[1]).toFixed(1), p]);
      svg.append(node('polyline', {
        points: points.map(p => `${p[0]},${p[1]}`).join(' '), fill: 'none', stroke: colour(i),
        'stroke-width': 2, 'stroke-dasharray': dashes[i % 5],
      }));
      if (points.length < 16) for (const [cx, cy, p] of points) svg.append(titled(
        node('circle', { cx, cy, r: 3, fill: colour(i) }),
        `${l.name}: ${short(p[0])}, ${short(p[1])}`));
    });
    if (many) legend(svg, lines, across, colour);
    if (dot) svg.append(node('circle', {
      cx: px(dot[0]), cy: py(dot[1]), r: 5, fill: 'none', stroke: 'var(--mark)', 'stroke-width': 2,
    }));
    return svg;
  }

  /* ---- bars ---- */

  /* rows: [{ name, value, note, colour, strong }]; from `low` to `most`, perhaps in logarithms. */
  function bars(width, { rows, label, most, log, low = 0 }) {
    const longest = Math.max(...rows.map(r => r.name.length));
    const names = Math.min(width * 0.42, Math.max(60, 7 * longest + 8)), notes = 130;
    const top = most ?? Math.max(...rows.map(r => r.value ?? 0), 1e-30);
    const room = Math.max(30, width - names - notes), length = scale(low, top, 0, room, log);
    const svg = canvas(width, 24 * rows.length + 4, label);
    rows.forEach((r, i) => {
      const y = 24 * i + 3, w = Math.min(room, r.value > low ? Math.max(1, length(r.value)) : 1);
      svg.append(
        text(names - 6, y + 14, r.name, { 'text-anchor': 'end' }),
        node('rect', {
          x: names, y, width: w, height: 18, fill: r.colour || colours[0], rx: 2,
        }),
        text(names + w + 6, y + 14, r.note ?? short(r.value), { class: r.strong ? '' : 'q' }));
    });
    return svg;
  }

  /* ---- maps ---- */

  /*
   * A cell for each number of values [rows, columns], fuller is more, `most` is full. mark(i, j): a
   * frame around it; colour(i, j): of a cell; digits: the number in it, where there is room.
   */
  function map(width, spec) {
    const { values, rows, columns, label, most, cell = 30, digits, mark, under = '' } = spec;
    const colour = spec.colour || (() => 'rgb(var(--heat))'), n = columns.length || 1;
    const longest = list => Math.max(0, ...list.map(s => s.length));
    const left = Math.min(width * 0.34, 7 * longest(rows) + 8);
    const size = Math.max(4, Math.min(cell, (width - left - 4) / n));
    const tall = Math.max(rows.length > 20 ? 9 : 15, Math.min(size, cell));
    const slanted = longest(columns) * 7 > size;
    const head = slanted ? 12 + 5 * Math.min(14, longest(columns)) : 18;
    const top = columns.some(Boolean) ? head : 2;
    const high = most ?? Math.max(...values.filter(v => v !== null), 1e-12);
    const letters = across => `font-size: ${Math.max(7, Math.min(12, across - 1))}px`;
    const cut = (s, keep) => s.length > keep ? `${s.slice(0, Math.max(1, keep - 1))}…` : s;
    const svg = canvas(width, top + tall * rows.length + (under ? 20 : 4), label);
    if (size >= 8) columns.forEach((c, j) => {
      const x = left + (j + 0.5) * size, y = top - 5;
      const how = slanted ? { transform: `rotate(-45 ${x} ${y})` } : { 'text-anchor': 'middle' };
      svg.append(text(x, y, cut(c, 14), { style: letters(size), ...how }));
    });
    rows.forEach((r, i) => {
      const y = top + i * tall;
      svg.append(text(left - 6, y + tall / 2 + Math.min(4, tall / 3),
        cut(r, Math.floor((left - 8) / 7)), { 'text-anchor': 'end', style: letters(tall) }));
      for (let j = 0; j < n; j++) {
        const v = values[i * n + j], part = v === null ? 0 : Math.min(1, Math.abs(v) / high);
        svg.append(titled(node('rect', {
          x: left + j * size, y, width: size - 1, height: tall - 1, fill: colour(i, j),
          'fill-opacity': 0.04 + 0.96 * part, stroke: mark?.(i, j) ? 'var(--ink)' : undefined,
        }), `${r}, ${columns[j]}: ${short(v)}`));
        if (digits !== undefined && size >= 28 && v !== null && part > 0.02)
          svg.append(text(left + (j + 0.5) * size - 0.5, y + tall / 2 + 4, v.toFixed(digits),
            { 'text-anchor': 'middle', style: part > 0.6 ? 'fill: var(--paper)' : '' }));
      }
    });
    if (under) svg.append(text(left, top + tall * rows.length + 14, under, { class: 'q' }));
    return svg;
  }

  /* ---- tables ---- */

  /* heads [columns], rows of texts or nodes. */
  function table(heads, rows) {
    const make = (tag, inside) => {
      const e = document.createElement(tag);
      e.append(...inside);
      return e;
    };
    const line = (tag, cells) => make('tr', cells.map(c => make(tag, [c])));
    const wide = make('div', [make('table', [line('th', heads), ...rows.map(r => line('td', r))])]);
    wide.className = 'wide';
    return wide;
  }

  /* Pictures beside each other, below each other where there is no room. */
  function side(...pictures) {
    const box = document.createElement('div');
    box.className = 'side';
    box.append(...pictures);
    return box;
  }

  return { node, text, titled, canvas, chart, bars, map, table, side, short, bytes, colours };
})();
