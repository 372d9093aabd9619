/*
 * Pictures of numbers in SVG: lines, bars, maps of cells. Each is drawn for the width there is, so
 * letters keep their size on a phone; each has its numbers as text (aria-label) and, under the
 * pointer, as titles. Colours are the style sheet's, and lines differ by dashes, too.
 */
'use strict';
const draw = (() => {
  const NS = 'http://www.w3.org/2000/svg';
  const colours = ['var(--one)', 'var(--two)', 'var(--three)', 'var(--four)', 'var(--quiet)'];
  const dashes = ['', '6 3', '2 3', '8 3 2 3', '1 4'];
  const node = (tag, attributes, ...inside) => {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) if (v !== undefined) e.setAttribute(k, v);
    e.append(...inside);
    return e;
  };
  const text = (x, y, s, more = {}) => node('text', { x, y, ...more }, String(s));
  const titled = (e, s) => { e.append(node('title', {}, s)); return e; };
  const canvas = (width, height, label, ...inside) =>
    node('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label }, ...inside);
  const short = x => {
    const a = Math.abs(x);
    if (x === null || Number.isNaN(x)) return '–';
    if (a === 0) return '0';
    if (a >= 1e4 || a < 1e-3) {
      for (const [size, name] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) if (a >= size) return `${+(x / size).toPrecision(3)} ${name}`;
      return x.toExponential(1);
    }
    return String(+x.toPrecision(3));
  };
  /* Round numbers within [low, high]. */
  function ticks(low, high, wanted, log) {
    if (log) {
      const out = [], first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9), step = Math.max(1, Math.ceil((last - first) / wanted));
      for (let e = first; e <= last; e += step) out.push(10 ** e);
      return out.length > 1 ? out : [low, high];
    }
    const raw = (high - low) / wanted, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(f => f * base).find(s => s >= raw) || raw;
    const out = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) out.push(+t.toPrecision(12));
    return out;
  }
  const scale = (low, high, from, to, log) => {
    const f = log ? Math.log : x => x, a = f(low), b = f(high);
    return x => from + (f(x) - a) / (b - a || 1) * (to - from);
  };

  /* lines: [{ name, points: [[x, y], ...], dots }]; at: a vertical line at x. */
  function chart(width, { lines, x = '', y = '', logx, logy, label, height = 260, low, high, at, dot }) {
    const all = lines.flatMap(l => l.points).filter(p => p[1] !== null && (!logy || p[1] > 0));
    const xs = all.map(p => p[0]), ys = all.map(p => p[1]);
    const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = low ?? Math.min(...ys), y1 = Math.max(high ?? -Infinity, ...ys);
    const left = 52, right = 12, bottom = 42, legend = lines.length > 1 ? 18 * Math.ceil(lines.length / Math.max(1, Math.floor(width / 190))) : 0, top = 12 + legend + (y && legend ? 12 : 0);
    const px = scale(x0, x1, left, width - right, logx), py = scale(y0, y1 === y0 ? y0 + 1 : y1, height - bottom, top, logy);
    const svg = canvas(width, height, label);
    for (const t of ticks(y0, y1 === y0 ? y0 + 1 : y1, 5, logy)) svg.append(
      node('line', { class: 'axis', x1: left, x2: width - right, y1: py(t), y2: py(t) }),
      text(left - 6, py(t) + 4, short(t), { 'text-anchor': 'end', class: 'q' }));
    for (const t of ticks(x0, x1, Math.max(3, width / 110), logx)) svg.append(text(px(t), height - bottom + 16, short(t), { 'text-anchor': 'middle', class: 'q' }));
    svg.append(text((left + width - right) / 2, height - 6, x, { 'text-anchor': 'middle', class: 'q' }), text(4, top - 4, y, { class: 'q' }));
    if (at !== undefined && at >= x0 && at <= x1) svg.append(node('line', { x1: px(at), x2: px(at), y1: top, y2: height - bottom, stroke: 'var(--mark)', 'stroke-width': 1 }));
    lines.forEach((l, i) => {
      const colour = l.colour || colours[i % 5], points = l.points.filter(p => p[1] !== null && (!logy || p[1] > 0));
      svg.append(node('polyline', { points: points.map(p => `${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`).join(' '), fill: 'none', stroke: colour, 'stroke-width': 2, 'stroke-dasharray': l.dots ? '0 99999' : dashes[i % 5] }));
      if (l.dots || points.length < 16) for (const p of points)
        svg.append(titled(node('circle', { cx: px(p[0]), cy: py(p[1]), r: l.dots ? 2.5 : 3, fill: colour }), `${l.name}: ${short(p[0])}, ${short(p[1])}`));
      if (lines.length > 1) {
        const across = Math.max(1, Math.floor(width / 190)), lx = (i % across) * 190 + 4, ly = 14 + 18 * Math.floor(i / across);
        svg.append(node('line', { x1: lx, x2: lx + 22, y1: ly - 4, y2: ly - 4, stroke: colour, 'stroke-width': 2, 'stroke-dasharray': l.dots ? '2 4' : dashes[i % 5] }), text(lx + 28, ly, l.name));
      }
    });
    if (dot) svg.append(node('circle', { cx: px(dot[0]), cy: py(dot[1]), r: 5, fill: 'none', stroke: 'var(--mark)', 'stroke-width': 2 }));
    return svg;
  }

  /* rows: [{ name, value, note, colour }], horizontal bars. */
  function bars(width, { rows, label, unit = '', most, log, low = 0 }) {
    const names = Math.min(width * 0.42, Math.max(60, ...rows.map(r => 7 * r.name.length + 8))), notes = 130;
    const top = most ?? Math.max(...rows.map(r => r.value ?? 0), 1e-30), room = Math.max(30, width - names - notes);
    const length = log ? scale(low, top, 0, room, true) : scale(low, top, 0, room);
    const svg = canvas(width, 24 * rows.length + 4, label);
    rows.forEach((r, i) => {
      const y = 24 * i + 3, w = Math.max(1, r.value === null || (log && r.value <= low) ? 1 : length(r.value));
      svg.append(text(names - 6, y + 14, r.name, { 'text-anchor': 'end' }),
        node('rect', { x: names, y, width: Math.min(w, room), height: 18, fill: r.colour || colours[0], rx: 2 }),
        text(names + Math.min(w, room) + 6, y + 14, r.note ?? short(r.value) + unit, { class: r.strong ? '' : 'q' }));
    });
    return svg;
  }

  /* A cell for each number, fuller is more; rows and columns: labels; mark(i, j): a frame around it. */
  function map(width, { values, rows, columns, label, most, cell = 30, digits, mark, colour = i => 'rgb(var(--heat))', under = '' }) {
    const letters = Math.max(0, ...rows.map(r => r.length)), left = Math.min(width * 0.34, 7 * letters + 8), n = columns.length || 1;
    const size = Math.max(4, Math.min(cell, (width - left - 4) / n)), tall = Math.max(rows.length > 20 ? 9 : 15, Math.min(size, cell));
    const letter = across => `font-size: ${Math.max(7, Math.min(12, across - 1))}px`;
    const slanted = Math.max(0, ...columns.map(c => c.length)) * 7 > size, top = columns.some(Boolean) ? slanted ? 12 + 5 * Math.min(14, Math.max(...columns.map(c => c.length))) : 18 : 2;
    const high = most ?? Math.max(...values.filter(v => v !== null), 1e-12);
    const svg = canvas(width, top + tall * rows.length + (under ? 20 : 4), label);
    if (size >= 8) columns.forEach((c, j) => {
      const x = left + (j + 0.5) * size;
      svg.append(text(x, top - 5, c.length > 14 ? c.slice(0, 13) + '…' : c, { style: letter(size), ...(slanted ? { transform: `rotate(-45 ${x} ${top - 5})` } : { 'text-anchor': 'middle' }) }));
    });
    rows.forEach((r, i) => {
      const y = top + i * tall, keep = Math.floor((left - 8) / 7);
      svg.append(text(left - 6, y + tall / 2 + Math.min(4, tall / 3), r.length > keep ? r.slice(0, Math.max(1, keep - 1)) + '…' : r, { 'text-anchor': 'end', style: letter(tall) }));
      for (let j = 0; j < n; j++) {
        const v = values[i * n + j], part = v === null ? 0 : Math.min(1, Math.abs(v) / high);
        const e = node('rect', { x: left + j * size, y, width: size - 1, height: tall - 1, fill: colour(i, j, v), 'fill-opacity': 0.04 + 0.96 * part });
        if (mark && mark(i, j)) e.setAttribute('stroke', 'var(--ink)');
        svg.append(titled(e, `${r}, ${columns[j]}: ${short(v)}`));
        if (digits !== undefined && size >= 28 && v !== null && part > 0.02)
          svg.append(text(left + (j + 0.5) * size - 0.5, y + tall / 2 + 4, v.toFixed(digits), { 'text-anchor': 'middle', style: part > 0.6 ? 'fill: var(--paper)' : '' }));
      }
    });
    if (under) svg.append(text(left, top + tall * rows.length + 14, under, { class: 'q' }));
    return svg;
  }

  return { node, text, titled, canvas, chart, bars, map, short, scale, colours };
})();
