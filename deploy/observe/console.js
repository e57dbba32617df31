"use strict";
// Text goes in as text, never as HTML: names of tables are not ours.

const SVG = "http://www.w3.org/2000/svg";
const GOOD = ["serving", "moving"];
const WINDOW_S = [120, 900]; // what the charts show, at least and at most
const byId = (id) => document.getElementById(id);
let paused = false;
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

// columns: [title, kind of its cells]; rows: of each, its cells: a text, or [text, class].
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
      const [text, name] = Array.isArray(value) ? value : [value, ""];
      const cell = line.appendChild(make(k ? "td" : "th", text, [columns[k][1], name].filter(Boolean).join(" ")));
      if (!k) { cell.scope = "row"; named(cell, text); }
    });
  }
  byId(place).replaceChildren(table);
}

// Points of one line, as far as there is a value: a gap where nothing was measured.
function strokes(samples, key, [end, span], most) {
  const found = [[]];
  for (const sample of samples) {
    const value = sample[key];
    if (value === null || value === undefined) { found.push([]); continue; }
    const x = 180 * (1 - (end - sample.time) / span);
    found[found.length - 1].push(`${x.toFixed(2)},${(98 - 94 * (value / (most || 1))).toFixed(2)}`);
  }
  return found.filter((points) => points.length).map((points) => (points.length > 1 ? points : [points[0], points[0]]));
}

function chart(place, samples, end, lines, worded, marked) {
  const first = samples.length ? samples[0].time : end;
  const span = Math.min(Math.max(end - first, WINDOW_S[0]), WINDOW_S[1]);
  const most = Math.max(...samples.flatMap((one) => lines.map(([key]) => one[key] || 0)), 0);
  const last = samples[samples.length - 1] || {};
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 180 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const said = lines.map(([key, label]) => `${label} ${worded(last[key])}`).join(", ");
  svg.setAttribute("aria-label", most ? `the last ${aged(span)}; now ${said}; at most ${worded(most)}` : "no calls yet");
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
  byId(place).replaceChildren(plot, legend);
}

function moved(move) {
  const all = move.rows + move.rows_left;
  if (!all) return "rows are about to move to other shards";
  return `rows move to other shards: ${whole(move.rows)} of ${whole(all)} (${Math.floor((100 * move.rows) / all)} %), for ${aged(move.seconds)}`;
}

function troubles(now) {
  const found = now.shards.filter((s) => !GOOD.includes(s.health)).map((s) => [
    `shard ${s.index} is ${s.health}${s.log_error ? `: its log failed: ${s.log_error}` : ""}. \`rowloom status\` says what can be done`, "bad",
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

function shard(s) {
  const there = s.sent_bytes_per_s !== undefined; // one that does not answer has told nothing
  const log = s.log_error ? ["failed", "bad"] : s.log_bytes ? inBytes(s.log_bytes) : "-";
  const told = [
    whole(s.rows), whole(s.pulled_rows_per_s), whole(s.pushed_rows_per_s), inBytes(s.received_bytes_per_s),
    inBytes(s.sent_bytes_per_s), inMs(s.p50_ms), inMs(s.p99_ms), inBytes(s.resident_bytes), log,
  ];
  return [
    String(s.index), [s.health, GOOD.includes(s.health) ? "good" : "bad"], ...(there ? told : told.map(() => "-")), s.node || "-",
  ];
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
  byId("move").hidden = !now.move;
  byId("move").textContent = now.move ? moved(now.move) : "";
  const rows = [["pulled_rows_per_s", "pulled", "one"], ["pushed_rows_per_s", "pushed", "two"]];
  chart("rows", state.samples, state.time, rows, rate, whole);
  chart("times", state.samples, state.time, [["p50_ms", "p50", "one"], ["p99_ms", "p99", "two"]], inMs, inMs);
  const columns = ["rows", "pull/s", "push/s", "in/s", "out/s", "p50", "p99", "memory", "log"].map((title) => [title, ""]);
  grid("shards", [["shard", "word"], ["health", "word"], ...columns, ["node", "word"]], now.shards.map(shard), "no shards");
  const titles = ["rows", "bytes", "pull/s", "push/s", "pull p99", "push p99", "skew", "hottest"].map((title) => [title, ""]);
  grid("tables", [["table", "word"], ...titles], now.tables.concat(now.other_tables).map(table),
    "no tables yet: a trainer makes one by create_table, or `tables:` of the deploy config");
  happened(state.events);
}

async function look() {
  if (!paused) {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (!reply.ok) throw new Error(String(reply.status));
      show(await reply.json());
    } catch (error) {
      set(byId("summary"), `the coordinator does not answer (${error.message}); this is what was seen last`, "bad");
    }
  }
  setTimeout(look, 5000);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
});
look();
