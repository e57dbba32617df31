"use strict";
// Text goes in as text, never as HTML: names of tables are not ours.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
let paused = false;

function make(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function whole(value) {
  return value === null || value === undefined ? "-" : Math.round(value).toLocaleString("en");
}

function inMs(value) {
  return value === null || value === undefined ? "-" : `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`;
}

function inBytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value || 0;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return `${size < 10 && unit ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

function grid(place, columns, rows) {
  const table = make("table");
  const head = table.appendChild(make("thead")).appendChild(make("tr"));
  for (const column of columns) {
    const cell = head.appendChild(make("th", column));
    cell.scope = "col";
  }
  const body = table.appendChild(make("tbody"));
  for (const row of rows) {
    const line = body.appendChild(make("tr"));
    row.forEach((value, k) => {
      const [text, name] = Array.isArray(value) ? value : [value];
      const cell = line.appendChild(make(k ? "td" : "th", text, name));
      if (!k) cell.scope = "row";
    });
  }
  byId(place).replaceChildren(table);
}

function chart(place, samples, lines, worded) {
  const most = Math.max(...samples.flatMap((s) => lines.map(([key]) => s[key] || 0)), 0);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 180 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const last = samples[samples.length - 1] || {};
  const said = lines.map(([key, label]) => `${label} ${worded(last[key])}`).join(", ");
  svg.setAttribute("aria-label", `the last 15 minutes; now ${said}; at most ${worded(most)}`);
  for (const [key, , name] of lines) {
    const line = document.createElementNS(SVG, "polyline");
    const points = samples.map((s, k) => `${180 - samples.length + k},${98 - 94 * ((s[key] || 0) / (most || 1))}`);
    line.setAttribute("points", points.join(" "));
    line.setAttribute("class", name);
    line.setAttribute("vector-effect", "non-scaling-stroke");
    svg.appendChild(line);
  }
  const legend = make("p");
  for (const [key, label, name] of lines) legend.append(make("span", `${label} ${worded(last[key])}  `, name));
  legend.append(make("span", `most ${worded(most)}`));
  byId(place).replaceChildren(svg, legend);
}

function show(state) {
  const now = state.now;
  if (!now) return;
  byId("name").textContent = now.name;
  document.title = `${now.name} - rowloom`;
  const snapshot = now.snapshot ? `newest snapshot ${Math.round(now.snapshot.age_s / 60)} min old` : "no snapshot";
  const move = now.move ? `, rows move: ${whole(now.move.rows_left)} left` : "";
  const summary = byId("summary");
  const text = `${now.healthy ? "healthy" : "NOT HEALTHY"}, ${now.shards.length} shards, epoch ${now.epoch}, ` +
    `durability ${now.durability}, ${snapshot}${move}`;
  if (summary.textContent !== text) summary.textContent = text; // said by screen readers when it changes
  summary.className = now.healthy ? "good" : "bad";
  chart("rows", state.samples, [["pulled_rows_per_s", "pulled", "one"], ["pushed_rows_per_s", "pushed", "two"]], whole);
  chart("times", state.samples, [["p50_ms", "p50", "one"], ["p99_ms", "p99", "two"]], inMs);
  grid("shards", ["shard", "health", "rows", "pull/s", "push/s", "in/s", "out/s", "p50", "p99", "memory", "log", "node"],
    now.shards.map((s) => [
      String(s.index), [s.health, s.health === "serving" || s.health === "moving" ? "good" : "bad"], whole(s.rows),
      whole(s.pulled_rows_per_s), whole(s.pushed_rows_per_s), inBytes(s.received_bytes_per_s),
      inBytes(s.sent_bytes_per_s), inMs(s.p50_ms), inMs(s.p99_ms), inBytes(s.resident_bytes),
      s.log_error ? ["failed", "bad"] : inBytes(s.log_bytes), s.node,
    ]));
  grid("tables", ["table", "rows", "bytes", "pull/s", "push/s", "pull p99", "push p99", "skew"],
    now.tables.concat(now.other_tables).map((t) => [
      t.name, whole(t.rows), inBytes(t.bytes), whole(t.pulled_rows_per_s), whole(t.pushed_rows_per_s),
      inMs(t.pull.p99_ms), inMs(t.push.p99_ms), t.skew === null ? "-" : t.skew.toFixed(2),
    ]));
  const events = state.events.slice().reverse().map((e) => {
    const line = make("li");
    line.append(make("time", new Date(1000 * e.time).toLocaleTimeString()), e.text);
    return line;
  });
  byId("events").replaceChildren(...events);
}

async function look() {
  if (!paused) {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (!reply.ok) throw new Error(String(reply.status));
      show(await reply.json());
    } catch (error) {
      byId("summary").textContent = `the coordinator does not answer (${error.message}); this is what was seen last`;
      byId("summary").className = "bad";
    }
  }
  setTimeout(look, 5000);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
});
look();
