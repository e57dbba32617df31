"use strict";
// Text goes in as text, never as HTML: names of tables are not ours.

const QUOTAS = ["rows", "bytes", "tables", "calls"];
const SVG = "http://www.w3.org/2000/svg";
const GOOD = ["serving", "moving"];
const HEAT = [1.25, 1.5, 2, 4]; // times the mean, from which a cell is darker
const NO_TABLES = "no tables yet: a trainer makes one by create_table, or `tables:` of the deploy config";
const WINDOW_S = [120, 900]; // what the charts show, at least and at most
const byId = (id) => document.getElementById(id);
let paused = false;
let every = 5; // seconds from look to look; fewer while rows move
let newest = null; // the event that was shown last

function make(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function set(node, text, name) {
  if (node.textContent !== text) node.textContent = text; // what did not change is not said again
  node.className = name || "";
}

function whole(value) {
  return value === null || value === undefined ? "-" : Math.round(value).toLocaleString("en");
}

function short(value) {
  return value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 });
}

function rate(value) {
  return value === null || value === undefined ? "-" : `${whole(value)} rows/s`;
}

function inPercent(value) {
  return value === null || value === undefined ? "-" : `${(100 * value).toFixed(1)} %`;
}

function inMs(value) {
  return value === null || value === undefined ? "-" : `${value < 10 ? value.toFixed(2) : whole(value)} ms`;
}

function inBytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value || 0;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return `${size < 10 && unit ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

function counted(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function aged(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// A long name may break after a dot or a line, rather than anywhere.
function named(node, text) {
  node.replaceChildren(...text.split(/(?<=[._/-])/).flatMap((part) => [part, make("wbr")]));
}

// columns: [title, kind of its cells]; rows: of each, its cells: a text, or [text, class, share of a bar, what that is, is it a limit].
function grid(place, columns, rows, none) {
  if (!rows.length) {
    byId(place).replaceChildren(make("p", none, "none"));
    return;
  }
  const table = make("table");
  const head = table.appendChild(make("thead")).appendChild(make("tr"));
  for (const [title, kind] of columns) {
    const cell = head.appendChild(make("th", title, kind));
    cell.scope = "col";
  }
  const body = table.appendChild(make("tbody"));
  for (const row of rows) {
    const line = body.appendChild(make("tr"));
    row.forEach((value, k) => {
      const [text, name, share, label, limit] = Array.isArray(value) ? value : [value, ""];
      const cell = line.appendChild(make(k ? "td" : "th", text, [columns[k][1], name].filter(Boolean).join(" ")));
      if (!k) { cell.scope = "row"; named(cell, text); }
      if (share !== undefined) cell.append(meter(share, label, limit));
    });
  }
  byId(place).replaceChildren(table);
}

function meter(share, label, limit) {
  const bar = make("meter");
  bar.value = Math.min(share, 1);
  if (limit) Object.assign(bar, { low: 0.75, high: 0.9, optimum: 0 });
  bar.setAttribute("aria-label", label);
  return bar;
}

// How many times the mean of those that tell, where that is enough to say so.
function uneven(values, least) {
  const told = values.filter((value) => value !== null);
  const mean = told.reduce((sum, value) => sum + value, 0) / told.length;
  return values.map((value) => (value !== null && told.length > 1 && mean >= least ? value / mean : 1));
}

function summed(cells) {
  const told = cells.filter((cell) => cell !== null);
  return told.length ? [0, 1, 2].map((k) => told.reduce((sum, cell) => sum + cell[k], 0)) : null;
}

// Of a cell [rows, bytes, rows a second], and of how many times the mean its rows and its rate are.
function cellOf(cell, inRows = 1, inRate = 1, least = false) {
  if (cell === null) return ["-", ""];
  const marked = (ratio) => (ratio >= HEAT[0] ? ` ${ratio.toFixed(1)}x` : "");
  const most = Math.max(inRows, inRate);
  const heat = HEAT.filter((bound) => most >= bound).length;
  const text = `${least ? ">= " : ""}${short(cell[0])}${marked(inRows)}\n${inBytes(cell[1])}\n${short(cell[2])}/s${marked(inRate)}`;
  return [text, heat ? `heat${heat}` : ""];
}

function matrix(now) {
  const { shards, tables, tables_left_out: others } = now.matrix;
  const line = (name, cells) => {
    const [rows, rates] = [[0, 100], [2, 10]].map(([k, least]) => uneven(cells.map((cell) => cell && cell[k]), least));
    return [name, cellOf(summed(cells), 1, 1, cells.includes(null)), ...cells.map((cell, k) => cellOf(cell, rows[k], rates[k]))];
  };
  const lines = tables.map((one) => line(one.name === null ? counted(others, "smaller table") : one.name, one.cells));
  if (tables.length > 1) {
    lines.unshift(line("all tables", shards.map((_, k) => summed(tables.map((one) => one.cells[k])))));
  }
  const health = now.shards.map((s) => (GOOD.includes(s.health) ? "" : ` ${s.health}`));
  const columns = shards.map((index, k) => [`shard ${index}${health[k]}`, health[k] && "bad"]);
  grid("matrix", [["table", "word"], ["all shards", ""], ...columns], lines, NO_TABLES);
}

// Points of one line, as far as there is a value: a gap where nothing was measured.
function strokes(samples, key, [end, span], most) {
  const found = [[]];
  for (const sample of samples) {
    const value = sample[key];
    if (value === null || value === undefined) { found.push([]); continue; }
    const x = 180 * (1 - (end - sample.time) / span);
    found[found.length - 1].push(`${x.toFixed(2)},${(98 - 94 * Math.min(1, value / (most || 1))).toFixed(2)}`);
  }
  return found.filter((points) => points.length).map((points) => (points.length > 1 ? points : [points[0], points[0]]));
}

// The upper end of a chart: a few samples far above all others leave it, and the last minute never does.
function scaleOf(tops) {
  const sorted = [...tops].sort((a, b) => a - b);
  const peak = sorted.length ? sorted[sorted.length - 1] : 0;
  const usual = sorted.length ? sorted[Math.floor(0.95 * (sorted.length - 1))] : 0;
  if (!usual || peak < 2.5 * usual) return [peak, peak];
  return [Math.min(peak, 1.25 * Math.max(usual, ...tops.slice(-12))), peak];
}

function chart(place, samples, end, lines, worded, marked) {
  const first = samples.length ? samples[0].time : end;
  const span = Math.min(Math.max(end - first, WINDOW_S[0]), WINDOW_S[1]);
  const tops = samples.map((one) => Math.max(...lines.map(([key]) => one[key] || 0)));
  const [most, peak] = scaleOf(tops);
  const last = samples[samples.length - 1] || {};
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 180 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const said = lines.map(([key, label]) => `${label} ${worded(last[key])}`).join(", ");
  svg.setAttribute("aria-label", most ? `the last ${aged(span)}; now ${said}; at most ${worded(peak)}` : "no calls yet");
  for (const [key, , name] of lines) {
    for (const points of strokes(samples, key, [end, span], most)) {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("points", points.join(" "));
      line.setAttribute("class", name);
      line.setAttribute("vector-effect", "non-scaling-stroke");
      svg.appendChild(line);
    }
  }
  const scale = make("div", undefined, "scale");
  scale.append(make("span", most ? marked(most) : ""), make("span", "0"));
  const time = make("div", undefined, "time");
  time.append(make("span", `${aged(span)} ago`), make("span", most ? "" : "no calls yet"), make("span", "now"));
  const plot = make("div", undefined, "plot");
  plot.append(scale, svg, time);
  const legend = make("p");
  legend.append(...lines.map(([key, label, name]) => make("span", `${label} ${worded(last[key])}`, `${name} mark`)));
  if (peak > most) {
    const above = make("span", `peak ${worded(peak)} at `);
    above.append(when(samples[tops.indexOf(peak)].time), ", above what is drawn");
    legend.append(above);
  }
  byId(place).replaceChildren(plot, legend);
}

function moved(move) {
  const all = move.rows + move.rows_left;
  const whom = move.handed_over.length ? `${counted(move.handed_over.length, "shard")} to other servers`
    : move.shards_before && move.shards_before !== move.shards ? `from ${move.shards_before} to ${counted(move.shards, "shard")}` : "to other shards";
  if (!all) return `${whom}: ${move.state}, for ${aged(move.seconds)}`;
  const words = [`${whom}: ${whole(move.rows)} of ${whole(all)} have arrived (${Math.floor((100 * move.rows) / all)} %), ${whole(move.rows_left)} are left`];
  if (move.rows_per_s) words.push(`${rate(move.rows_per_s)}, pass ${move.pass}`);
  if (move.eta_s !== null) words.push(`about ${aged(move.eta_s)} more`);
  if (move.state !== "moving") words.push(move.state);
  if (move.held_bytes) words.push(`${inBytes(move.held_bytes)} of memory for rows that came`);
  if (move.braked) words.push("pushes are slowed down, because rows change faster than they move");
  return `${words.join("; ")}; for ${aged(move.seconds)}`;
}

// A bar for each shard that gets rows: of as many as it would have if all had the same.
function moves(move) {
  byId("move").hidden = !move;
  if (!move) return;
  const all = move.rows + move.rows_left;
  set(byId("moved"), moved(move));
  byId("done").max = all || 1;
  if (all) byId("done").value = move.rows;
  else byId("done").removeAttribute("value"); // nobody has counted them yet
  const share = Math.max(all / Math.max(move.arrivals.length, 1), ...move.arrivals.map((one) => one.rows), 1);
  const place = byId("arrivals");
  place.hidden = !move.arrivals.length;
  while (place.children.length > move.arrivals.length) place.lastChild.remove();
  while (place.children.length < move.arrivals.length) {
    const line = place.appendChild(make("p"));
    line.append(make("span"), make("progress"), make("span"));
  }
  move.arrivals.forEach((one, k) => {
    const [name, bar, told] = place.children[k].children;
    set(name, `shard ${one.shard}`);
    Object.assign(bar, { max: share, value: one.rows });
    bar.setAttribute("aria-label", `rows that have come to shard ${one.shard}`);
    set(told, `${whole(one.rows)} arrived, about ${whole(Math.max(0, share - one.rows))} left`);
  });
}

function troubles(now) {
  const found = now.shards.filter((s) => !GOOD.includes(s.health)).map((s) => [
    `shard ${s.index} is ${s.health}${s.log_error ? `: its log failed: ${s.log_error}` : s.stays_dead ? `: it cannot be started again yet: ${s.stays_dead}` : ""}. \`rowloom status\` says what can be done`, "bad",
  ]);
  return found.concat(now.unfinished.map((one) => [`not finished yet: ${one}`, ""]));
}

function list(place, lines) {
  const node = byId(place);
  while (node.children.length > lines.length) node.lastChild.remove();
  while (node.children.length < lines.length) node.append(make("li"));
  lines.forEach(([text, name], k) => set(node.children[k], text, name));
}

function when(seconds) {
  const moment = new Date(1000 * seconds);
  const day = moment.toDateString() === new Date().toDateString() ? "" : `${moment.toLocaleDateString()} `;
  const node = make("time", day + moment.toLocaleTimeString());
  node.dateTime = moment.toISOString();
  return node;
}

// Only what is new is put in, so that it is said once.
function happened(events) {
  const known = events.findIndex((one) => newest && one.time === newest.time && one.text === newest.text);
  const later = newest && known < 0 ? events.filter((one) => one.time > newest.time) : events.slice(known + 1);
  for (const event of later) {
    const line = make("li");
    line.append(when(event.time), make("span", event.text));
    byId("events").prepend(line);
  }
  while (byId("events").children.length > 200) byId("events").lastChild.remove();
  if (events.length) newest = events[events.length - 1];
}

// limit: more is trouble; all of a plan is what was meant.
function against(size, bound, what, limit) {
  if (!bound) return inBytes(size);
  const percent = `${Math.round((100 * size) / bound)} %`;
  return [`${inBytes(size)}, ${percent}`, limit && size > bound ? "bad" : "", size / bound, `${percent} of ${what}`, limit];
}

function standby(one) {
  if (!one) return ["none", "bad"];
  const lag = one.behind_changes ? `, ${inBytes(one.behind_bytes)} and ${one.behind_s.toFixed(1)} s behind` : "";
  const rows = one.state === "filling" ? `, ${whole(one.rows)} rows` : "";
  return [`${one.state}${rows}${lag}${one.error ? `: ${one.error}` : ""}`, { "in step": "good", filling: "" }[one.state] ?? "bad"];
}

function shard(s, bounds, standbys) {
  const there = s.sent_bytes_per_s !== undefined; // one that does not answer has told nothing
  const behind = s.log_behind_bytes ? `, ${inBytes(s.log_behind_bytes)} behind` : "";
  const log = s.log_error ? ["failed", "bad"] : s.log_bytes ? `${inBytes(s.log_bytes)}${behind}` : "-";
  const told = [
    whole(s.rows), whole(s.pulled_rows_per_s), whole(s.pushed_rows_per_s), inBytes(s.received_bytes_per_s),
    inBytes(s.sent_bytes_per_s), inMs(s.p50_ms), inMs(s.p99_ms), against(s.bytes, bounds.rows_bytes, "what its rows take with every id pushed", false),
    against(s.resident_bytes, bounds.process_bytes, "ray.memory_per_shard", true), log,
  ];
  return [
    String(s.index), [s.health, GOOD.includes(s.health) ? "good" : "bad"], ...(there ? told : told.map(() => "-")),
    ...(standbys ? [standby(s.standby)] : []), s.node || "-",
  ];
}

function bounded(bounds) {
  const rows = bounds.rows_bytes ? `with every id pushed the rows of a shard take ${inBytes(bounds.rows_bytes)}, as \`rowloom plan\` says`
    : "what rows may come to take is not known: there are no tables, or one is open-ended";
  const process = bounds.process_bytes ? `ray.memory_per_shard is ${inBytes(bounds.process_bytes)}` : "no limit for a process is set";
  const extra = bounds.extra_bytes ? `; limits.max_extra_memory is ${inBytes(bounds.extra_bytes)}` : "";
  return `Memory: ${rows}; ${process}${extra}.`;
}

// When the next one is due, and whether one is being written. One by hand puts off none that is due.
function due(now, time) {
  const writing = now.shards.reduce((sum, s) => sum + (s.snapshot_writing_rows || 0), 0);
  const said = writing ? [`one is being written: ${whole(writing)} rows so far`] : [];
  const { snapshot_every_s: often, storage } = now.limits;
  const taken = now.snapshot && now.snapshot.created_s;
  if (!storage) said.push("there is no `storage:`, where they would go");
  else if (!often) said.push("none is taken by itself: `rowloom snapshot`, or `snapshots: {every: ...}` of the deploy config");
  else if (!taken) said.push(`one is taken every ${aged(often)}`);
  else if (taken + often >= time) said.push(`one every ${aged(often)}, the next within ${aged(taken + often - time)}`);
  else said.push(`one every ${aged(often)}, the next has been due for ${aged(time - taken - often)}`);
  const late = often && taken && time - taken > 1.5 * often + 60;
  set(byId("due"), `${said.join("; ")}.`, late ? "none bad" : "none");
}

function kept(one, time) {
  const took = one.seconds === null ? "-" : `${one.seconds.toFixed(1)} s`;
  const taken = new Date(1000 * one.created_s).toLocaleString();
  return [one.id, taken, aged(time - one.created_s), whole(one.rows), inBytes(one.bytes), took, one.pause_s === null ? "-" : inMs(1000 * one.pause_s)];
}

function quota(one) {
  return [one.principal, ...QUOTAS.map((what) => {
    const { used, quota: most, fullest, refused } = one[what];
    const worded = what === "bytes" ? inBytes : whole;
    const no = refused ? `, ${counted(refused, "refusal")}` : "";
    if (most === null) return `${worded(used)}${no}`;
    const share = fullest === null ? used / (most || 1) : fullest;
    const where = fullest === null ? "" : ", on the fullest shard";
    return [`${worded(used)} of ${worded(most)}${no}`, share >= 1 ? "bad" : "", share, `${Math.round(100 * share)} % of a quota${where}`, true];
  })];
}

function table(t) {
  const push = [t.push.p99_ms, t.step.p99_ms].filter((ms) => ms !== null);
  const known = t.rows !== undefined && (t.rows > 0 || !t.uncounted_shards.length);
  const size = (figure) => (!known ? "-" : t.uncounted_shards.length ? `>= ${figure}` : figure); // some shards tell nothing
  return [
    t.name, size(whole(t.rows)), size(inBytes(t.bytes)), whole(t.pulled_rows_per_s), whole(t.pushed_rows_per_s),
    inMs(t.pull.p99_ms), inMs(push.length ? Math.max(...push) : null), t.skew === null ? "-" : t.skew.toFixed(2),
    inPercent(t.hottest_share),
  ];
}

function show(state) {
  const now = state.now;
  if (!now) return;
  byId("name").textContent = now.name;
  document.title = `${now.healthy ? "" : "! "}${now.name} - rowloom`;
  const snapshot = now.snapshot ? `newest snapshot ${aged(now.snapshot.age_s)} old` : "no snapshot";
  const text = `${now.healthy ? "healthy" : "NOT HEALTHY"}, ${counted(now.shards.length, "shard")}, epoch ${now.epoch}, ` +
    `durability ${now.durability}, ${snapshot}`;
  set(byId("summary"), text, now.healthy ? "good" : "bad");
  byId("seen").replaceChildren("seen ", when(state.time));
  list("troubles", troubles(now));
  moves(now.move);
  matrix(now);
  const rows = [["pulled_rows_per_s", "pulled", "one"], ["pushed_rows_per_s", "pushed", "two"]];
  chart("rows", state.samples, state.time, rows, rate, whole);
  chart("times", state.samples, state.time, [["p50_ms", "p50", "one"], ["p99_ms", "p99", "two"]], inMs, inMs);
  const standbys = now.shards.some((s) => s.standby);
  const figures = ["rows", "pull/s", "push/s", "in/s", "out/s", "p50", "p99", "bytes", "memory", "log"].map((title) => [title, ""]);
  const columns = [["shard", "word"], ["health", "word"], ...figures, ...(standbys ? [["standby", "word"]] : []), ["node", "word"]];
  set(byId("limits"), bounded(now.limits), "none");
  grid("shards", columns, now.shards.map((s) => shard(s, now.limits, standbys)), "no shards");
  const titles = ["rows", "bytes", "pull/s", "push/s", "pull p99", "push p99", "skew", "hottest"].map((title) => [title, ""]);
  grid("tables", [["table", "word"], ...titles], now.tables.concat(now.other_tables).map(table), NO_TABLES);
  due(now, state.time);
  const taken = ["taken", "age", "rows", "bytes", "took", "pushes waited"].map((title) => [title, ""]);
  grid("snapshots", [["snapshot", "word"], ...taken], [...state.snapshots].reverse().map((one) => kept(one, state.time)), "no snapshot yet");
  byId("quoted").hidden = !now.quotas.some((one) => QUOTAS.some((what) => one[what].quota !== null));
  grid("quotas", [["principal", "word"], ...QUOTAS.map((what) => [what, ""])], now.quotas.map(quota), "no quotas");
  happened(state.events);
}

let waiting = 0; // a look that is to come

async function look() {
  clearTimeout(waiting);
  if (!paused) {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (!reply.ok) throw new Error(String(reply.status));
      const state = await reply.json();
      every = state.every_s;
      show(state);
    } catch (error) {
      set(byId("summary"), `the coordinator does not answer (${error.message}); this is what was seen last`, "bad");
    }
  }
  clearTimeout(waiting);
  waiting = setTimeout(look, 1000 * every);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
});
look();
