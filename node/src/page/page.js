// The page of a node: what it says of its run, read-only.
//
// The node sends its status and its rounds as they change; the page keeps the last of them and draws once a frame what
// has changed. All text comes from other machines in the end: it is set as text, never read as HTML.

/** Rows of rounds that are shown before all are asked for. */
const ROWS_SHOWN = 200;
/** Nodes in the list of bytes before all are asked for. */
const BARS_SHOWN = 10;
/** Parts of a bar that can still be told apart. */
const PARTS_SHOWN = 60;
/** Milliseconds until a connection that the browser has given up is tried again. */
const RETRY_MS = 3_000;
/** A member is late when it trains for so many times as long as it usually does, and for so much longer. */
const LATE_TIMES = 2;
/** See LATE_TIMES. */
const LATE_MS = 5_000;

const run = {
  /** What the node said last of itself; null until it has. */
  status: null,
  /** When it said so, on this browser's clock. */
  at: 0,
  /** Rounds by number. */
  rounds: new Map(),
  /** The same, oldest first. */
  sorted: [],
};
/** The run that is drawn beside; null without one. */
let other = null;
/** Names of nodes by id, also of those that have left since. */
// The cookie has the token by now; it need not stand in the address, to be seen or copied.
if (new URLSearchParams(location.search).has('token')) history.replaceState(null, '', location.pathname);

const names = new Map();
let isLive = false;
/** When the connection was lost: until then clocks go on. */
let lostAt = null;

const $ = (id) => document.getElementById(id);

// Words and numbers: those of `paceline status`.

/** What a node is to its run. */
const STATES = {
  gathering: 'waiting for enough nodes to begin',
  founding: 'beginning the run with the others',
  member: 'a member',
  halted: 'a member of a run that stopped',
  left: 'off the run for good',
};

/** What goes on in a round. */
const PHASES = {
  electing: 'the nodes choose who coordinates',
  recovering: 'takes up what an earlier coordinator began',
  collecting: 'updates are collected',
  aggregating: 'the updates are averaged',
  proposing: 'the members agree on the average',
  done: 'is over',
};

/** What a member does. */
const DOES = {
  uploading: 'sends its update',
  done: 'update is in',
  fetching: 'fetches the model',
  failed: 'its training failed',
};

/** The word for a word of the node's; the same where there is no better. */
const word = (words, name) => (Object.hasOwn(words, name) ? words[name] : name);

/** A time as a clock has it: `4 s`, `3 min 20 s`, `2 h 5 min`. */
function clock(ms) {
  const s = Math.max(0, Math.floor(ms / 1_000));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3_600)} h ${Math.floor(s / 60) % 60} min`;
}

/** How long something took. */
function took(ms) {
  if (ms == null) return '-';
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return ms < 100_000 ? `${(ms / 1_000).toFixed(1)} s` : clock(ms);
}

/** A metric, with its unit if it is a share. */
function metric(name, value) {
  if (value == null) return '-';
  return name === 'accuracy' ? `${(100 * value).toFixed(1)} %` : digits(value, 4);
}

/** A number with so many decimals, or in powers of ten where that would be long. */
function digits(value, decimals) {
  if (value == null) return '-';
  return Math.abs(value) < 1e7 ? value.toFixed(decimals) : value.toExponential(3);
}

const loss = (nats) => digits(nats, 3);

function bytes(count) {
  if (count == null) return '-';
  if (count < 10_000) return `${count} bytes`;
  if (count < 10_000_000) return `${(count / 1e3).toFixed(0)} kB`;
  return count < 10_000_000_000 ? `${(count / 1e6).toFixed(0)} MB` : `${(count / 1e9).toFixed(1)} GB`;
}

const grouped = (count) => (count == null ? '-' : count.toLocaleString('en'));
const plural = (count, one, many) => `${grouped(count)} ${count === 1 ? one : many}`;
const shortHash = (hash) => (/^[0-9a-f]{64}$/.test(hash) ? hash.slice(0, 10) : hash);
/** The end of a node's id, which differs where the beginning does not. */
const shortId = (id) => (/^[0-9A-Za-z]{40,}$/.test(id) ? id.slice(-6) : id);

/** What people call a node: its name, or its id in short; both where others have the same name. */
function nameOf(id) {
  if (id == null) return '-';
  const name = names.get(id);
  if (!name) return shortId(id);
  const isOneOfSeveral = run.status.roster.filter((m) => m.name === name).length > 1;
  return isOneOfSeveral ? `${name} (${shortId(id)})` : name;
}

/** The metric that the run is judged by: what the node says, or else what its rounds have. */
function leading() {
  const told = run.status?.lead?.metric ?? run.status?.evaluated?.metric;
  if (told) return told;
  const known = new Set(run.sorted.flatMap((r) => Object.keys(r.metrics ?? {})));
  if (known.has('accuracy')) return 'accuracy';
  return [...known].find((name) => name !== 'loss') ?? (known.has('loss') ? 'loss' : 'accuracy');
}

/** Whether one value of the leading metric is better than another. */
function isBetter(one, than) {
  const isHigherBetter = run.status?.lead?.higher_is_better ?? !['loss', 'error'].includes(leading());
  return isHigherBetter ? one > than : one < than;
}

const measured = (round, name) => round.metrics?.[name] ?? (name === 'accuracy' ? round.accuracy : null) ?? null;
const longestTraining = (round) => Math.max(0, ...round.contributions.map((c) => c.train_ms ?? 0));

// Elements.

/** An element with attributes and children, which are elements or text. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Sets a text if it differs, so that what is selected and announced stays as it is. */
function set(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

/** Puts elements into a parent in this order, and moves only those that are elsewhere. */
function arrange(parent, children) {
  let at = parent.firstChild;
  for (const child of children) {
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Text from elsewhere, whose direction of writing must not reach beyond it. */
const bdi = (text) => el('bdi', {}, text);

/** A node's name; where that is cut, all of it and the id are told. */
const node = (id) => fillNode(el('bdi', { class: 'node' }), id);

function fillNode(named, id) {
  const name = nameOf(id);
  set(named, name);
  named.title = id == null || name === id ? '' : `${name}, ${id}`;
  return named;
}

/** A small bar that is filled to a share from 0 to 1. */
function shareBar(share) {
  const bar = el('span', { class: 'share' });
  bar.style.setProperty('--share', share);
  return bar;
}

/** A bar of so many parts. */
function segments(bar, { of, done, active = 0, needed = null }, text) {
  bar.classList.toggle('parted', of > 1 && of <= PARTS_SHOWN);
  const values = { of: Math.max(1, of), done, active, needed: needed ?? 0 };
  for (const [name, value] of Object.entries(values)) bar.style.setProperty(`--${name}`, value);
  if (!bar.firstChild) bar.append(el('i', { class: 'active' }), el('i', { class: 'needed' }));
  bar.children[0].hidden = active <= 0;
  bar.children[1].hidden = needed == null || needed <= 0 || needed >= of;
  bar.setAttribute('aria-valuemax', of);
  bar.setAttribute('aria-valuenow', done);
  bar.setAttribute('aria-valuetext', text);
}

/** Tells those who do not see the page. */
const say = (text) => set($('said'), text);

// Drawing: at most once a frame.

const dirty = new Set();

function draw(...parts) {
  if (dirty.size === 0) requestAnimationFrame(drawDirty);
  parts.forEach((part) => dirty.add(part));
}

function drawDirty() {
  const parts = [...dirty];
  dirty.clear();
  parts.forEach((part) => part());
}

// The status.

/** Milliseconds since the status; while the node does not answer, until it was last heard. */
const elapsed = () => (lostAt ?? performance.now()) - run.at;
/** An age that the status told, as it is by now. */
const aged = (ms) => (ms == null ? null : ms + elapsed());

function showStatus() {
  const s = run.status;
  if (!s) return;
  $('page').removeAttribute('aria-busy');
  showHead(s);
  showBanners(s);
  showFacts(s);
  showMembers(s);
  showNewcomers(s);
}

const isInRound = (s) => s.round > 0 && !['stopped', 'left', 'finished', 'halted'].includes(s.state);

function showHead(s) {
  set($('run-name'), s.run_name || 'a run');
  set($('run-id'), shortHash(s.run_id));
  $('run-id').title = s.run_id;
  const part = s.part ? ` (part ${s.part})` : '';
  set($('me'), `this node ${s.name || shortId(s.node_id)}${part} is ${word(STATES, s.state)}`);
  const text = `${s.trained} of ${s.rounds} rounds`;
  const isOn = isInRound(s) && s.trained < s.rounds;
  segments($('progress'), { of: s.rounds, done: s.trained, active: isOn ? 1 : 0 }, text);
  set($('progress-text'), text);
  // Rounds without updates do not count, so the round's number may be beyond the last.
  const now = isOn ? `round ${s.trained + 1} of ${s.rounds}` : `${s.state}, ${text}`;
  const title = `${isLive ? '' : '(no answer) '}${now} - ${s.run_name}`;
  if (document.title !== title) document.title = title;
}

/** Whether a reason was shown. */
let hadReason = false;

function showBanners(s) {
  const banners = [];
  if (s.reason) banners.push(['banner', s.reason]);
  if (s.fork) {
    banners.push(['banner', `another chain of this run was seen: ${s.fork}; the two stay apart. If you know that it is `
      + `the right one, stop this node and start it once with: \`paceline join --switch ${s.fork}\``]);
  }
  if (s.forced) {
    const { by, name, round, chain } = s.forced;
    banners.push(['banner note', `this chain was begun by ${name || shortId(by)} alone, with \`paceline roster drop\`: `
      + `it goes on behind round ${round} with chain ${shortHash(chain)}, whose majority was gone`]);
  }
  const box = $('banners');
  box.hidden = banners.length === 0;
  while (box.children.length > banners.length) box.lastChild.remove();
  banners.forEach(([kind, text], at) => {
    const banner = box.children[at] ?? box.appendChild(el('p'));
    banner.className = kind;
    if (banner.textContent !== text.replaceAll('`', '')) banner.replaceChildren(...withCommands(text));
  });
  // Its seconds go on; that it is there is said once.
  if (s.reason && !hadReason) say(s.reason);
  hadReason = Boolean(s.reason);
}

/** A text whose commands, between backticks, are elements of their own. */
function withCommands(text) {
  return text.split('`').map((piece, at) => (at % 2 === 1 ? el('code', {}, piece) : piece));
}

/** One fact of the strip: what it is, its value, and what more there is to say; nothing hides it. */
function fact(id, told) {
  const box = $(id);
  box.hidden = told == null;
  if (!told) return;
  set(box.querySelector('dt'), told.label);
  set(box.querySelector('.value'), told.value);
  set(box.querySelector('.more'), told.more ?? '');
}

function showFacts(s) {
  const isOn = isInRound(s);
  fact('fact-round', isOn ? presentRound(s) : outsideRounds(s));
  showUpdates(s, isOn);
  const coordinator = s.is_coordinator ? 'this node' : nameOf(s.coordinator);
  fact('fact-coordinator', isOn
    ? { label: 'coordinated by', value: coordinator, more: s.coordinator ? '' : 'nobody is chosen yet' } : null);
  const { evaluated, best } = s;
  fact('fact-last', evaluated && {
    label: evaluated.metric, value: metric(evaluated.metric, evaluated.value), more: `after round ${evaluated.round}`,
  });
  fact('fact-best', evaluated && best && {
    label: `best ${best.metric}`,
    value: metric(best.metric, best.value),
    more: best.round === evaluated.round ? 'the best so far' : `after round ${best.round}`,
  });
}

function showUpdates(s, isOn) {
  const { updates_in: count, updates_needed: needed } = s;
  const of = s.participants.length;
  const isCollected = isOn && count != null;
  const value = isCollected ? `${count} of ${of}` : '-';
  const more = !isCollected ? 'none are collected now' : needed == null ? '' : `${needed} are needed`;
  fact('fact-updates', isOn ? { label: 'updates', value, more } : null);
  $('updates').hidden = !isCollected || of === 0;
  if (isCollected) segments($('updates'), { of, done: count, needed }, value);
}

function presentRound(s) {
  const since = s.round_ms == null ? '' : ` for ${clock(aged(s.round_ms))}`;
  const attempt = s.attempt > 0 ? `, attempt ${s.attempt + 1}` : '';
  const more = [];
  if (s.collected_in_ms != null) more.push(`goes on without the late ones in ${clock(s.collected_in_ms - elapsed())}`);
  const t = s.training;
  const trains = t?.evaluating ? 'evaluates' : 'trains';
  if (t) more.push(`this node ${trains}: batch ${t.done} of ${t.of}, loss ${loss(t.loss)}`);
  return { label: `round ${s.round}${since}${attempt}`, value: word(PHASES, s.phase), more: more.join('\n') };
}

function outsideRounds(s) {
  const value = word(STATES, s.state);
  if (s.round === 0) {
    const here = s.roster.filter((m) => m.node_id === s.node_id || m.reachable).length;
    return { label: 'before the first round', value, more: `${plural(here, 'node is', 'nodes are')} here` };
  }
  const model = s.model_hash ? `model ${shortHash(s.model_hash)}` : '';
  if (s.state === 'finished') return { label: 'finished', value: `all ${s.rounds} rounds are done`, more: model };
  return { label: s.state === 'halted' ? `round ${s.round}` : 'this node', value, more: model };
}

/** A member as it is by now: how it stands, and the words for it. */
function memberNow(m, me) {
  const isUnknown = m.state === 'unknown';
  const doing = m.state === 'training' && m.percent != null ? `training ${m.percent} %` : word(DOES, m.state);
  const isSilent = m.silent_ms != null;
  const since = isSilent ? null : aged(m.since_ms);
  const usual = m.state === 'training' ? m.usual_ms : null;
  const isLate = since != null && usual != null && since > LATE_TIMES * usual && since > usual + LATE_MS;
  let heard = m.reachable ? 'now' : '-';
  if (isSilent) heard = `${clock(aged(m.silent_ms))} ago`;
  if (m.node_id === me) heard = 'this node';
  let stands = isUnknown ? 'unknown' : 'well';
  if (m.state === 'failed') stands = 'failed';
  if (isSilent) stands = 'silent';
  if (isLate) stands = 'late';
  return {
    stands,
    does: isSilent ? (isUnknown ? 'silent' : `silent, was: ${doing}`) : doing,
    percent: isSilent || m.state !== 'training' ? null : m.percent,
    for: since == null ? '' : usual == null ? clock(since) : `${clock(since)}, usually ${clock(usual)}`,
    heard,
  };
}

/** Who needs a look stands first. */
const RANKS = ['late', 'failed', 'silent', 'well', 'unknown'];

/** Rows of members by id. */
const memberRows = new Map();

function showMembers(s) {
  const isBefore = s.round === 0;
  set($('members-title'), isBefore ? 'Nodes that are here' : 'Members');
  set($('members-count'), s.roster.length > 0 && !isBefore ? `${s.quorum} of ${s.roster.length} decide` : '');
  $('pair').classList.toggle('alone', run.sorted.length === 0);
  $('nobody').hidden = s.roster.length > 0;
  $('members').parentElement.hidden = s.roster.length === 0;
  const shown = s.roster.map((m) => ({ m, now: memberNow(m, s.node_id) }));
  shown.sort((a, b) => RANKS.indexOf(a.now.stands) - RANKS.indexOf(b.now.stands));
  const ids = new Set(s.roster.map((m) => m.node_id));
  for (const id of memberRows.keys()) if (!ids.has(id)) memberRows.delete(id);
  arrange($('members'), shown.map(({ m, now }) => {
    const row = memberRows.get(m.node_id) ?? memberRow(m.node_id);
    fillMember(row, m, now, s.coordinator === m.node_id && isInRound(s));
    return row.tr;
  }));
}

function memberRow(id) {
  const cell = (name, ...children) => el('td', { role: 'cell', class: name }, ...children);
  const name = node(id);
  const coordinates = el('span', { class: 'badge coordinates' }, 'coordinates');
  const does = el('span');
  const share = shareBar(0);
  const lasts = el('span');
  const late = el('span', { class: 'badge' }, 'late');
  const [part, heard] = [cell('part'), cell('heard')];
  const tr = el('tr', { role: 'row' },
    cell('name', name, coordinates), part, cell('does', does, share), cell('for', lasts, late), heard);
  const row = { tr, name, coordinates, part, does, share, lasts, late, heard };
  memberRows.set(id, row);
  return row;
}

function fillMember(row, m, now, isCoordinator) {
  row.tr.className = now.stands;
  fillNode(row.name, m.node_id);
  row.coordinates.hidden = !isCoordinator;
  set(row.part, m.part ?? '');
  set(row.does, now.does);
  row.share.hidden = now.percent == null;
  row.share.style.setProperty('--share', (now.percent ?? 0) / 100);
  set(row.lasts, now.for);
  row.late.hidden = now.stands !== 'late';
  set(row.heard, now.heard);
}

function showNewcomers(s) {
  const list = $('newcomers');
  list.hidden = s.newcomers.length === 0;
  while (list.children.length > s.newcomers.length) list.lastChild.remove();
  s.newcomers.forEach((n, at) => {
    const item = list.children[at] ?? list.appendChild(el('li'));
    item.className = n.refused ? 'refused' : '';
    const name = n.name || shortId(n.node_id);
    const joins = `${name} joins with the next round that is done`;
    set(item, n.refused ? `${name} wants to join and can't: ${n.refused}` : joins);
  });
}

// Curves.

/** A step of 1, 2 or 5 times a power of ten that divides a span into about so many. */
function niceStep(span, count) {
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * ([1, 2, 5].find((times) => times * power >= raw * 0.999) ?? 10);
}

/** How an axis counts: by which unit, and how it is written. */
function unitOf(kind, highest) {
  if (kind === 'accuracy') return { size: 0.01, name: ' %' };
  if (kind !== 'time') return { size: 1, name: '' };
  if (highest < 180e3) return { size: 1e3, name: ' s' };
  return highest < 3 * 3_600e3 ? { size: 60e3, name: ' min' } : { size: 3_600e3, name: ' h' };
}

/** Ticks of an axis from the lowest to the highest value, both within. */
function ticksOf(kind, lowest, highest) {
  const unit = unitOf(kind, highest);
  let [low, high] = [lowest / unit.size, highest / unit.size];
  if (high - low < 1e-9 * Math.max(1e-6, Math.abs(high))) {
    const room = 0.1 * (Math.abs(high) || 1);
    [low, high] = [low - room, high + room];
  }
  if (lowest >= 0) low = Math.max(0, low);
  const step = niceStep(high - low, 4);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let at = Math.floor(low / step + 1e-9); ; at += 1) {
    ticks.push({ value: at * step * unit.size, text: `${digits(at * step, Math.min(decimals, 6))}${unit.name}` });
    if (at * step >= high - 1e-9 * step) return ticks;
  }
}

/** At most so many points: of each stretch the lowest and the highest, so that no peak is lost. */
function thinned(points, most) {
  if (points.length <= most) return points;
  const kept = [];
  const size = (2 * points.length) / most;
  for (let from = 0; from < points.length; from += size) {
    const stretch = points.slice(Math.floor(from), Math.floor(from + size));
    let [low, high] = [stretch[0], stretch[0]];
    for (const point of stretch) {
      if (point[1] < low[1]) low = point;
      if (point[1] > high[1]) high = point;
    }
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

/** The element of a sorted list that is nearest to a number. */
function nearest(sorted, to) {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < to) low = middle;
    else high = middle;
  }
  return to - sorted[low] <= sorted[high] - to ? low : high;
}

function swatch(name) {
  const mark = svg('svg', { class: 'swatch', width: 16, height: 10, 'aria-hidden': 'true' });
  const isLine = ['this', 'other'].includes(name);
  mark.append(isLine
    ? svg('path', { class: `curve ${name}`, d: 'M1 5H15' })
    : svg('rect', { class: name, x: 3, width: 10, height: 10, rx: 2 }));
  return mark;
}

/**
 * Curves or columns over rounds. Its model: `caption`, `kind` (accuracy, number or time), `tell` (the words for a
 * value), `lines` ({as: this or other, name, points: [[round, value]], best}), `columns` ({names, points: [[round,
 * lower, upper]]}) or null, and `empty` (what to say without a point).
 */
class Chart {
  constructor(id) {
    this.caption = el('span');
    this.legend = el('p', { class: 'legend' });
    this.tip = el('div', { class: 'tip', 'aria-hidden': 'true', hidden: '' });
    this.plot = el('div', { class: 'plot', tabindex: '0', role: 'slider', 'aria-roledescription': 'curve' });
    $(id).append(el('figcaption', {}, this.caption), this.plot, this.legend);
    this.model = null;
    this.rounds = [];
    this.listen();
    new ResizeObserver(() => draw(this.drawing)).observe(this.plot);
  }

  /** The function that draws it, always the same one. */
  drawing = () => this.draw();

  show(model) {
    this.model = model;
    const points = [...model.lines.flatMap((l) => l.points), ...(model.columns?.points ?? [])];
    this.rounds = [...new Set(points.map((p) => p[0]))].sort((a, b) => a - b);
    for (const line of model.lines) line.at = new Map(line.points);
    if (model.columns) model.columns.at = new Map(model.columns.points.map((p) => [p[0], p]));
    draw(this.drawing);
  }

  draw() {
    const { model, plot } = this;
    const [width, height] = [plot.clientWidth, plot.clientHeight];
    if (!model || width === 0) return;
    set(this.caption, model.caption);
    plot.setAttribute('aria-label', `${model.caption} by round`);
    if (this.rounds.length === 0) {
      this.legend.replaceChildren();
      plot.replaceChildren(el('p', { class: 'empty' }, model.empty));
      plot.tabIndex = -1;
      return;
    }
    plot.tabIndex = 0;
    this.scale(width, height);
    const root = svg('svg', { 'aria-hidden': 'true' });
    this.drawAxes(root);
    if (model.columns) this.drawColumns(root);
    for (const line of [...model.lines].reverse()) this.drawLine(root, line);
    this.cursor = root.appendChild(svg('g', { class: 'cursor' }));
    plot.replaceChildren(root, this.tip);
    this.showLegend();
    this.mark(pointed);
  }

  scale(width, height) {
    const { model, rounds } = this;
    const heights = (model.columns?.points ?? []).map((p) => p[1] + p[2]);
    const values = [...model.lines.flatMap((l) => l.points.map((p) => p[1])), ...heights];
    const [least, most] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    this.ticks = ticksOf(model.kind, model.columns ? 0 : least, most);
    const [low, high] = [this.ticks[0].value, this.ticks.at(-1).value];
    const left = 8 + 6.3 * Math.max(...this.ticks.map((t) => t.text.length));
    const [top, bottom] = [8, height - 22];
    const [first, last] = [rounds[0], rounds.at(-1)];
    // Columns stand within the axis, points on its ends.
    const room = model.columns ? Math.min(30, (width - left - 8) / (2 * (last - first + 1))) : 5;
    const [from, to] = [left + room, width - 8 - room];
    this.box = { left, right: width - 8, top, bottom };
    this.each = last > first ? (to - from) / (last - first) : 60;
    this.x = last > first ? (round) => from + (round - first) * this.each : () => (from + to) / 2;
    this.y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  }

  drawAxes(root) {
    const { box, rounds } = this;
    for (const tick of this.ticks) {
      const y = Math.round(this.y(tick.value)) + 0.5;
      root.append(svg('line', { class: 'grid', x1: box.left, x2: box.right, y1: y, y2: y }));
      root.append(svg('text', { x: box.left - 7, y: y + 3.5, 'text-anchor': 'end' }, tick.text));
    }
    const ground = box.bottom + 0.5;
    root.append(svg('line', { class: 'axis', x1: box.left, x2: box.right, y1: ground, y2: ground }));
    const [first, last] = [rounds[0], rounds.at(-1)];
    const step = last > first ? Math.max(1, niceStep(last - first, (box.right - box.left) / 44)) : 1;
    for (let round = Math.ceil(first / step) * step; round <= last; round += step) {
      const x = this.x(round);
      root.append(svg('line', { class: 'axis', x1: x, x2: x, y1: box.bottom, y2: box.bottom + 4 }));
      root.append(svg('text', { x, y: box.bottom + 17, 'text-anchor': 'middle' }, String(round)));
    }
  }

  drawLine(root, line) {
    const points = thinned(line.points, Math.max(60, Math.floor((this.box.right - this.box.left) / 2)));
    const at = points.map(([round, value]) => `${this.x(round).toFixed(1)} ${this.y(value).toFixed(1)}`);
    if (at.length > 1) root.append(svg('path', { class: `curve ${line.as}`, d: `M${at.join('L')}` }));
    // Points are drawn where they do not touch each other.
    if (points.length === 1 || (this.each >= 10 && line.as === 'this')) {
      points.forEach(([round, value]) => root.append(this.dot(line.as, round, value, 3.5)));
    }
    if (!line.best) return;
    const [round, value] = line.best;
    root.append(svg('circle', { class: 'best', cx: this.x(round), cy: this.y(value), r: 7 }));
  }

  dot(name, round, value, r) {
    return svg('circle', { class: `dot ${name}`, cx: this.x(round).toFixed(1), cy: this.y(value).toFixed(1), r });
  }

  /** The columns as they are drawn, where they stand first; of each stretch the longest where there are too many. */
  drawn() {
    const { points } = this.model.columns;
    const size = Math.ceil(points.length / Math.max(1, (this.box.right - this.box.left) / 4));
    this.stretch = size;
    const longest = (stretch) => stretch.reduce((a, b) => (b[1] + b[2] > a[1] + a[2] ? b : a));
    return Array.from({ length: Math.ceil(points.length / size) }, (_, at) => {
      const stretch = points.slice(at * size, (at + 1) * size);
      const [, lower, upper] = longest(stretch);
      return [(this.x(stretch[0][0]) + this.x(stretch.at(-1)[0])) / 2, lower, upper];
    });
  }

  drawColumns(root) {
    const points = this.drawn();
    const width = Math.max(1, Math.min(26, 0.72 * this.each * this.stretch));
    const box = (x, from, to) => {
      const [left, w] = [x - width / 2, width].map((v) => v.toFixed(1));
      return `M${left} ${from.toFixed(1)}h${w}V${to.toFixed(1)}h-${w}z`;
    };
    const [lower, upper] = [[], []];
    for (const [x, below, above] of points) {
      const middle = this.y(below);
      lower.push(box(x, this.y(0), middle));
      // What takes next to no time is still seen.
      upper.push(box(x, middle, Math.min(this.y(below + above), middle - 1)));
    }
    const path = (name, boxes) => svg('path', { class: name, d: boxes.join('') });
    root.append(path('training', lower), path('rest', upper));
  }

  showLegend() {
    const { lines, columns } = this.model;
    const kinds = ['training', 'rest'];
    const items = [
      ...(columns?.points.length ? kinds.map((kind, at) => [kind, columns.names[at]]) : []),
      ...lines.filter((l) => l.points.length > 0).map((l) => [l.as, l.name]),
    ];
    const shown = items.map(([name, text]) => el('span', {}, swatch(name), bdi(text)));
    if (columns && this.stretch > 1) shown.push(el('span', {}, `the longest of each ${this.stretch} rounds`));
    this.legend.replaceChildren(...shown);
  }

  /** What there is to tell of a round: the swatch, the name and the value of each. */
  told(round) {
    const { lines, columns, tell } = this.model;
    const bars = columns?.at.get(round);
    return [
      ...(bars ? ['training', 'rest'].map((kind, at) => [kind, columns.names[at], tell(bars[at + 1])]) : []),
      ...lines.filter((l) => l.at.has(round)).map((l) => [l.as, l.name, tell(l.at.get(round))]),
    ];
  }

  /** Marks a round; on the chart that is pointed at with what there is to tell of it. */
  mark({ round, chart }) {
    if (!this.cursor) return;
    this.cursor.replaceChildren();
    this.tip.hidden = true;
    const told = round == null ? [] : this.told(round);
    if (told.length === 0) return;
    const x = this.x(round);
    this.cursor.append(svg('line', { x1: x, x2: x, y1: this.box.top, y2: this.box.bottom }));
    for (const line of this.model.lines.filter((l) => l.at.has(round))) {
      this.cursor.append(this.dot(line.as, round, line.at.get(round), 5));
    }
    if (chart === this) this.tellAt(x, round, told);
  }

  tellAt(x, round, told) {
    const { tip, plot } = this;
    tip.replaceChildren(el('b', {}, `round ${round}`), ...told.map(([name, text, value]) =>
      el('div', { class: 'told' }, swatch(name), bdi(text), el('span', { class: 'number' }, value))));
    tip.hidden = false;
    const beside = x + 14 + tip.offsetWidth > plot.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.transform = `translate(${Math.round(Math.max(0, beside))}px, 4px)`;
    plot.setAttribute('aria-valuemin', this.rounds[0]);
    plot.setAttribute('aria-valuemax', this.rounds.at(-1));
    plot.setAttribute('aria-valuenow', round);
    const words = told.map(([, text, value]) => `${text} ${value}`).join(', ');
    plot.setAttribute('aria-valuetext', `round ${round}: ${words}`);
  }

  listen() {
    const { plot } = this;
    const pointAt = (event) => {
      if (this.rounds.length === 0 || !this.box) return;
      const x = event.clientX - plot.getBoundingClientRect().left;
      const first = this.x(this.rounds[0]);
      point(this, this.rounds[nearest(this.rounds, this.rounds[0] + (x - first) / this.each)]);
    };
    plot.addEventListener('pointermove', pointAt);
    plot.addEventListener('pointerdown', pointAt);
    plot.addEventListener('pointerleave', () => point(null, null));
    plot.addEventListener('blur', () => point(null, null));
    plot.addEventListener('focus', () => {
      // A click has pointed already.
      if (plot.matches(':focus-visible') && pointed.chart !== this) point(this, this.rounds.at(-1) ?? null);
    });
    plot.addEventListener('click', (event) => {
      // A finger only asks for the values.
      if (event.pointerType === 'mouse') openRecord(pointed.round);
    });
    plot.addEventListener('keydown', (event) => this.onKey(event));
  }

  onKey(event) {
    const last = this.rounds.length - 1;
    const at = pointed.chart === this ? nearest(this.rounds, pointed.round) : last;
    const to = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: last,
    }[event.key];
    if (last < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (to != null) point(this, this.rounds[Math.min(last, Math.max(0, to))]);
    else if (event.key === 'Enter') openRecord(pointed.round);
    else if (event.key === 'Escape') point(null, null);
    else return;
    event.preventDefault();
  }
}

/** The round that is pointed at, and in which chart. */
let pointed = { round: null, chart: null };

function point(chart, round) {
  if (pointed.chart === chart && pointed.round === round) return;
  pointed = { chart, round };
  charts.forEach((each) => each.mark(pointed));
}

const [leadChart, lossChart, timeChart] = ['chart-lead', 'chart-loss', 'chart-time'].map((id) => new Chart(id));
const charts = [leadChart, lossChart, timeChart];

function showCurves() {
  // Sections that rounds fill are there from the first one on; charts measure themselves then.
  const hasRounds = run.sorted.length > 0;
  for (const section of document.querySelectorAll('.of-rounds')) section.hidden = !hasRounds;
  $('no-rounds').hidden = hasRounds;
  const lead = leading();
  const both = (value) => [
    { as: 'this', name: 'this run', points: pointsOf(run.sorted, value) },
    ...(other ? [{ as: 'other', name: other.name, points: pointsOf(other.rounds, value) }] : []),
  ];
  const lines = both((r) => measured(r, lead));
  if (lines[0].points.length > 1) lines[0].best = lines[0].points.reduce((a, b) => (isBetter(b[1], a[1]) ? b : a));
  const kind = lead === 'accuracy' ? 'accuracy' : 'number';
  leadChart.show({
    caption: lead, kind, lines, tell: (v) => metric(lead, v), columns: null,
    empty: 'It is known a round later.',
  });
  lossChart.show({
    caption: 'loss in training', kind: 'number', lines: both((r) => r.train_loss), tell: (v) => digits(v, 4),
    columns: null,
    empty: 'There were no updates yet.',
  });
  const [, besides] = both((r) => r.duration_ms);
  timeChart.show({
    caption: 'duration', kind: 'time', lines: besides ? [besides] : [], tell: took,
    columns: {
      names: ['longest training', 'overhead'],
      points: run.sorted.filter((r) => r.duration_ms != null).map(splitTime),
    },
    empty: 'It is not known.',
  });
}

/** The rounds that have a value, with that. */
function pointsOf(rounds, value) {
  return rounds.map((r) => [r.round, value(r)]).filter(([, v]) => Number.isFinite(v));
}

/** How long the longest training of a round took, and the rest of it. */
function splitTime(r) {
  const rest = r.overhead_ms ?? Math.max(0, r.duration_ms - longestTraining(r));
  return [r.round, Math.max(0, r.duration_ms - rest), rest];
}

// An earlier run beside.

/** Those that can be chosen, by home. */
let choices = new Map();

async function listRuns() {
  const select = $('other');
  try {
    choices = new Map((await fetched('runs')).map((r) => [r.home, r]));
  } catch {
    // Without the list there is nothing to choose; it is asked for again with the next connection.
    return;
  }
  const chosen = select.value;
  const options = [...choices.values()].map((r) =>
    el('option', { value: r.home }, `${r.run}: ${r.trained} of ${r.rounds} rounds (${r.home})`));
  select.replaceChildren(select.options[0], ...options);
  select.value = choices.has(chosen) ? chosen : '';
  $('beside').hidden = choices.size === 0;
}

async function chooseOther() {
  const home = $('other').value;
  let [chosen, problem] = [null, ''];
  if (home) {
    try {
      const rounds = await fetched(`runs/${encodeURIComponent(home)}/rounds`);
      rounds.sort((a, b) => a.round - b.round);
      chosen = { name: `${choices.get(home)?.run ?? 'a run'} (${home})`, rounds };
      if (!rounds.some((r) => measured(r, leading()) != null)) problem = `${leading()} was not measured there`;
    } catch {
      problem = 'its rounds can\'t be read';
    }
    // Another one was chosen meanwhile.
    if ($('other').value !== home) return;
  }
  other = chosen;
  set($('other-problem'), problem);
  draw(showCurves);
}

async function fetched(path) {
  const answer = await fetch(path, { headers: { accept: 'application/json' } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// Bytes.

let areAllBytesShown = false;

function showBytes() {
  const sums = new Map();
  let [sent, received] = [0, 0];
  for (const r of run.sorted) {
    sent += r.bytes_sent ?? 0;
    received += r.bytes_received ?? 0;
    for (const c of r.contributions) {
      if (c.update_bytes != null) sums.set(c.node_id, (sums.get(c.node_id) ?? 0) + c.update_bytes);
    }
  }
  const sorted = [...sums].sort((a, b) => b[1] - a[1]);
  const shown = areAllBytesShown ? sorted : sorted.slice(0, BARS_SHOWN);
  const bar = (count) => shareBar(count / Math.max(1, sorted[0][1]));
  $('bytes').replaceChildren(...shown.map(([id, count]) =>
    el('li', {}, node(id), el('span', { class: 'number' }, bytes(count)), bar(count))));
  $('no-bytes').hidden = sums.size > 0;
  $('all-bytes').hidden = sorted.length <= BARS_SHOWN;
  set($('all-bytes'), areAllBytesShown ? 'show fewer' : `show all ${sorted.length} nodes`);
  set($('totals'), `this node has sent ${bytes(sent)} and received ${bytes(received)} in all these rounds`);
}

// The table of rounds.

/** Rows of rounds by number, each with its cells. */
const rows = new Map();
/** Rounds whose rows are not up to date. */
const changed = new Set();
let areAllRoundsShown = false;
/** What the column of the leading metric shows. */
let shownLead = null;
/** The row that Tab comes to; the arrow keys move it. */
let tabRow = null;

function showRounds() {
  const lead = leading();
  if (lead !== shownLead) {
    shownLead = lead;
    set($('lead-column'), lead);
    run.rounds.forEach((_, number) => changed.add(number));
  }
  const all = run.sorted.length;
  const from = areAllRoundsShown ? 0 : Math.max(0, all - ROWS_SHOWN);
  const shown = run.sorted.slice(from).reverse();
  for (const r of shown) {
    const isNew = !rows.has(r.round);
    if (isNew) rows.set(r.round, roundRow(r.round));
    if (isNew || changed.has(r.round)) fillRound(rows.get(r.round), r, lead);
  }
  changed.clear();
  const numbers = new Set(shown.map((r) => r.round));
  for (const number of rows.keys()) if (!numbers.has(number)) rows.delete(number);
  arrange($('rounds'), shown.map((r) => rows.get(r.round).tr));
  const isUsed = rows.has(tabRow) && document.activeElement === rows.get(tabRow).button;
  if (!isUsed && opened == null) moveTabTo(shown[0]?.round ?? null);
  const isCut = all > ROWS_SHOWN;
  set($('rounds-count'), from > 0 ? `the last ${ROWS_SHOWN} of ${grouped(all)}` : plural(all, 'round', 'rounds'));
  $('all-rounds').hidden = !isCut;
  set($('all-rounds'), areAllRoundsShown ? `show the last ${ROWS_SHOWN}` : 'show all');
}

function roundRow(number) {
  const cell = (kind = 'number') => el('td', { class: kind });
  const label = { 'aria-haspopup': 'dialog', 'aria-label': `round ${number}, its record` };
  const button = el('button', { type: 'button', tabindex: '-1', ...label }, String(number));
  const again = el('span', { class: 'again' });
  const by = node(null);
  const who = el('span', { class: 'who' });
  const [value, lossCell, duration, overhead] = [cell(), cell(), cell(), cell('number at-wide')];
  const tr = el('tr', { 'data-round': number },
    el('td', { class: 'number' }, button),
    el('td', { class: 'at-wide' }, by, again),
    el('td', { class: 'number' }, who),
    value, lossCell, duration, overhead);
  return { tr, button, by, again, who, value, lossCell, duration, overhead };
}

function fillRound(row, r, lead) {
  const count = r.contributions.length;
  const attempt = r.committed_attempt ?? r.attempt ?? 0;
  fillNode(row.by, r.committed_by ?? r.coordinator);
  set(row.again, attempt > 0 ? `, attempt ${attempt + 1}` : '');
  set(row.who, count > 0 ? count : 'none');
  set(row.value, metric(lead, measured(r, lead)));
  set(row.lossCell, loss(r.train_loss));
  set(row.duration, took(r.duration_ms));
  set(row.overhead, took(r.overhead_ms));
}

function moveTabTo(number) {
  if (rows.has(tabRow)) rows.get(tabRow).button.tabIndex = -1;
  tabRow = number;
  if (rows.has(tabRow)) rows.get(tabRow).button.tabIndex = 0;
}

const roundOf = (target) => {
  const row = target.closest?.('tr[data-round]');
  return row ? Number(row.dataset.round) : null;
};

function listenToRounds() {
  const table = $('rounds');
  table.addEventListener('click', (event) => {
    const number = roundOf(event.target);
    // Who selects text does not want the record.
    if (number == null || String(getSelection()) !== '') return;
    moveTabTo(number);
    rows.get(number).button.focus({ preventScroll: true });
    openRecord(number);
  });
  table.addEventListener('keydown', (event) => {
    const row = event.target.closest('tr');
    const to = {
      ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling,
      Home: table.firstElementChild, End: table.lastElementChild,
    }[event.key];
    if (!to || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    moveTabTo(Number(to.dataset.round));
    rows.get(tabRow).button.focus();
  });
  // Who contributed is told where the pointer is; by keyboard it is in the record.
  table.addEventListener('pointerover', (event) => {
    const who = event.target.closest('td')?.querySelector('.who');
    const round = who && run.rounds.get(roundOf(who));
    $('tip').hidden = !round || round.contributions.length === 0;
    if (!$('tip').hidden) tellWho(who, round);
  });
  table.addEventListener('pointerleave', () => { $('tip').hidden = true; });
  addEventListener('scroll', () => { $('tip').hidden = true; }, { passive: true, capture: true });
}

/** Names in a tip, most. */
const NAMES_TOLD = 12;

function tellWho(at, round) {
  const told = round.contributions.slice(0, NAMES_TOLD).map((c) =>
    el('div', { class: 'told' }, node(c.node_id), el('span', { class: 'number' }, took(c.train_ms))));
  const more = round.contributions.length - told.length;
  $('tip').replaceChildren(el('b', {}, 'updates of'), ...told, ...(more > 0 ? [`and ${more} more`] : []));
  const box = at.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - $('tip').offsetWidth - 8));
  const isAbove = box.bottom + 8 + $('tip').offsetHeight > innerHeight;
  const top = isAbove ? box.top - 8 - $('tip').offsetHeight : box.bottom + 8;
  $('tip').style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

// The record of a round.

/** The round whose record is open; null while none is. */
let opened = null;
/** Its record, once that was fetched. */
let record = null;

async function openRecord(number) {
  if (!run.rounds.has(number)) return;
  [opened, record] = [number, null];
  showRecord();
  if (!$('record').open) $('record').showModal();
  $('record-body').scrollTop = 0;
  await fetchRecord(number);
}

async function fetchRecord(number) {
  let found;
  try {
    found = await fetched(`rounds/${number}`);
  } catch {
    found = { isMissing: true };
  }
  if (opened !== number) return;
  record = found;
  draw(showRecord);
}

/** The next round that there is, in a direction; undefined at an end. */
const beside = (number, by) => run.sorted[run.sorted.findIndex((r) => r.round === number) + by]?.round;

function showRecord() {
  const r = opened == null ? null : run.rounds.get(opened);
  if (!r) return $('record').close();
  set($('record-title'), `Round ${r.round}`);
  $('older').disabled = beside(opened, -1) == null;
  $('newer').disabled = beside(opened, 1) == null;
  // A button that is disabled while it has the focus would leave it nowhere.
  if ($('record').contains(document.activeElement) && document.activeElement.disabled) $('close').focus();
  const parts = [recordFacts(r), contributions(r)];
  if (record?.isMissing) parts.push(el('p', { class: 'quiet' }, 'The node does not give the rest of this record.'));
  else if (!record) parts.push(el('p', { class: 'quiet' }, 'The rest of it is fetched.'));
  else parts.push(...recordPeople(record));
  parts.push(recordHashes(r));
  $('record-body').replaceChildren(...parts.filter(Boolean));
}

function pairs(entries) {
  const pair = ([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value));
  return el('dl', { class: 'pairs' }, ...entries.map(pair));
}

function recordFacts(r) {
  const metrics = { ...(r.accuracy == null ? {} : { accuracy: r.accuracy }), ...r.metrics };
  const by = r.committed_by ?? r.coordinator;
  const attempt = r.committed_attempt ?? r.attempt ?? 0;
  const called = (name) => (name === 'loss' ? 'loss, evaluated' : name);
  return pairs([
    ['coordinated by', node(by)],
    ...(r.coordinator && r.coordinator !== by ? [['begun by', node(r.coordinator)]] : []),
    ...(attempt > 0 ? [['attempt', String(attempt + 1)]] : []),
    ['updates', r.kind === 'empty' ? 'none' : String(r.contributions.length)],
    ...Object.entries(metrics).map(([name, value]) => [called(name), metric(name, value)]),
    ...(r.evaluated == null ? [] : [['evaluated on', plural(r.evaluated, 'example', 'examples')]]),
    ['loss in training', digits(r.train_loss, 4)],
    ['duration', took(r.duration_ms)],
    ['overhead', took(r.overhead_ms)],
    ['this node sent', bytes(r.bytes_sent)],
    ['this node received', bytes(r.bytes_received)],
    ...(record?.rule ? [['rule', bdi(record.rule)]] : []),
    ...(record?.members == null ? [] : [['members', String(record.members)]]),
  ]);
}

const hash = (text) => el('code', { title: text ?? '' }, text ? shortHash(text) : '-');

function contributions(r) {
  if (r.contributions.length === 0) return null;
  const longest = Math.max(1, longestTraining(r));
  const hasTrainer = r.contributions.some((c) => c.trainer);
  const head = ['node', 'samples', 'loss', 'training', 'update', 'hash', ...(hasTrainer ? ['trainer'] : [])];
  const isNumber = (at) => at > 0 && at < 5;
  const line = (c) => [
    node(c.node_id), grouped(c.samples), loss(c.train_loss), took(c.train_ms), bytes(c.update_bytes),
    hash(c.update_hash),
    ...(hasTrainer ? [bdi(c.trainer || '-')] : []),
  ];
  const cells = (c) => line(c).map((value, at) => {
    const cell = el('td', isNumber(at) ? { class: 'number' } : {}, value);
    if (at === 3 && c.train_ms != null) cell.append(shareBar(c.train_ms / longest));
    return cell;
  });
  const headCell = (name, at) => el('th', { scope: 'col', ...(isNumber(at) ? { class: 'number' } : {}) }, name);
  const table = el('table', {},
    el('thead', {}, el('tr', {}, ...head.map(headCell))),
    el('tbody', {}, ...r.contributions.map((c) => el('tr', {}, ...cells(c)))));
  const box = el('div', { class: 'scrolls', tabindex: '0', role: 'region', 'aria-label': 'updates' }, table);
  return el('section', {}, el('h3', {}, 'Updates'), box);
}

function recordPeople(found) {
  const list = (title, people, name) => {
    if (!people?.length) return null;
    const items = people.map((each) => el('li', {}, name(each)));
    return el('section', {}, el('h3', {}, title), el('ul', { class: 'names' }, ...items));
  };
  const joined = (m) => bdi(`${m.name || nameOf(m.node_id)}${m.part ? `, part ${m.part}` : ''}`);
  return [
    list('Accepted by', found.accepted_by, node),
    list('Joined', found.joined, joined),
    list('Left', found.left, node),
    list('Evicted', found.evicted, node),
  ];
}

function recordHashes(r) {
  return el('section', {}, el('h3', {}, 'Hashes'), pairs([
    ['model', hash(r.model_hash)], ['record', hash(r.record_hash)], ['record before', hash(r.parent)],
  ]));
}

function listenToRecord() {
  const dialog = $('record');
  $('close').addEventListener('click', () => dialog.close());
  $('older').addEventListener('click', () => openRecord(beside(opened, -1)));
  $('newer').addEventListener('click', () => openRecord(beside(opened, 1)));
  // Only what is outside of its content is the dialog itself.
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => { [opened, record] = [null, null]; });
}

// What the node sends.

/** What of the status the rounds are shown with: names, and which metric leads. */
let shownWith = null;

function onStatus(status) {
  run.status = status;
  run.at = performance.now();
  for (const [id, name] of Object.entries(status.former ?? {})) if (name) names.set(id, name);
  for (const m of status.roster) if (m.name) names.set(m.node_id, m.name);
  for (const n of status.newcomers) if (n.name) names.set(n.node_id, n.name);
  const told = JSON.stringify([status.lead, leading(), status.roster.map((m) => [m.node_id, m.name])]);
  if (told !== shownWith) {
    shownWith = told;
    run.rounds.forEach((_, number) => changed.add(number));
    draw(showCurves, showBytes, showRounds);
  }
  draw(showStatus);
}

/** Takes up rounds that are new or have changed; all of them in place of those that are known, if asked to. */
function onRounds(rounds, inPlace) {
  if (inPlace) run.rounds.clear();
  for (const r of rounds) {
    r.contributions ??= [];
    run.rounds.set(r.round, r);
    changed.add(r.round);
  }
  run.sorted = [...run.rounds.values()].sort((a, b) => a.round - b.round);
  if (!inPlace && rounds.length > 0) say(`round ${run.sorted.at(-1).round} is done`);
  draw(showCurves, showBytes, showRounds);
  if (opened != null && (inPlace || rounds.some((r) => r.round === opened))) draw(showRecord);
}

function setLive(now) {
  if (now === isLive && lostAt == null === now) return;
  isLive = now;
  lostAt = now ? null : performance.now();
  set($('connection'), now ? 'live' : 'the node does not answer; tries again');
  $('connection').className = `connection ${now ? 'live' : 'lost'}`;
  $('page').classList.toggle('lost', !now);
  draw(showStatus);
}

function connect() {
  const events = new EventSource('events');
  // The first rounds of a connection are all that there are.
  let isFirst = true;
  events.addEventListener('open', () => {
    isFirst = true;
    setLive(true);
    listRuns();
  });
  events.addEventListener('status', (event) => {
    const status = JSON.parse(event.data);
    // A node that began anew has no rounds to send in place of those that are shown.
    if (isFirst && status.trained === 0 && run.sorted.length > 0) onRounds([], true);
    onStatus(status);
  });
  events.addEventListener('rounds', (event) => {
    onRounds(JSON.parse(event.data), isFirst);
    isFirst = false;
  });
  events.addEventListener('reset', () => onRounds([], true));
  events.addEventListener('error', () => {
    setLive(false);
    // The browser tries again by itself, unless it was answered something else than events.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  });
}

$('all-rounds').addEventListener('click', () => {
  areAllRoundsShown = !areAllRoundsShown;
  draw(showRounds);
});
$('all-bytes').addEventListener('click', () => {
  areAllBytesShown = !areAllBytesShown;
  draw(showBytes);
});
$('other').addEventListener('change', chooseOther);
listenToRounds();
listenToRecord();
draw(showCurves, showBytes, showRounds);
// Clocks go on between two statuses.
setInterval(() => { if (isLive) draw(showStatus); }, 1_000);
connect();
