// The status page: asks for /status.json every second while somebody looks, and shows it.
"use strict";

const PERIOD = 1000; // ms
const PATIENCE = 4000; // ms until an answer is given up
const HISTORY = 120; // samples of the curve

const $ = (id) => document.getElementById(id);
const history = []; // [unix time, bytes in all]
let timer = 0;
let asking = false;

// --- words ---------------------------------------------------------------------------------------

const count = (n) => n.toLocaleString("en");

function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

const rate = (n) => `${bytes(n)}/s`;

// A limit is mostly a round number of KiB: 128 KiB rather than 131 kB.
function limit(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n && n % 1024 === 0 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return n < 10000 ? `${count(n)} ${units[unit]}` : bytes(n * 1024 ** unit);
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => s >= size);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .map(([size, unit], i) => `${Math.floor((i ? s % parts[first][0] : s) / size)} ${unit}`)
    .filter((text, i) => i === 0 || !text.startsWith("0 "))
    .join(" ");
}

const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
const short = (id) => (id.length > 16 ? `${id.slice(0, 4)}…${id.slice(-4)}` : id);
const many = (n, one, more) => `${count(n)} ${n === 1 ? one : more}`;

// --- elements ------------------------------------------------------------------------------------

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Shows `items` as rows of a table: [key, class of the row, [cell, …]], a cell being text or
// [class, text]. Rows that stay are kept, so that selections and focus do.
function fill(table, items, none) {
  const body = table.tBodies[0];
  const rows = new Map(Array.from(body.rows, (row) => [row.dataset.key, row]));
  items.forEach(([key, className, cells], index) => {
    let row = rows.get(key);
    rows.delete(key);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.key = key;
      for (const _ of cells) row.append(document.createElement("td"));
    }
    row.className = className;
    cells.forEach((cell, column) => {
      const td = row.cells[column];
      const head = table.tHead.rows[0].cells[column];
      if (head.classList.contains("num")) td.classList.add("num");
      if (!Array.isArray(cell)) {
        write(td, cell);
      } else if (cell[0].startsWith("tag")) {
        if (!td.firstElementChild) td.append(make("span", cell[0], ""));
        write(td.firstElementChild, cell[1]);
      } else {
        td.classList.add(cell[0]);
        write(td, cell[1]);
      }
    });
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] || null);
  });
  for (const row of rows.values()) row.remove();
  table.hidden = items.length === 0;
  write($(`${table.id}-more`), items.length === 0 ? none : "");
}

// --- parts ---------------------------------------------------------------------------------------

function showThroughput(status) {
  const total = sum(status.totals.bytes);
  const last = history[history.length - 1];
  if (last && (status.started !== showThroughput.started || total < last[1])) history.length = 0;
  showThroughput.started = status.started;
  if (!last || status.taken > last[0]) history.push([status.taken, total]);
  if (history.length > HISTORY + 1) history.shift();
  const rates = history
    .slice(1)
    .map(([time, n], i) => (n - history[i][1]) / (time - history[i][0]));
  const peak = Math.max(0, ...rates);
  write($("throughput"), rates.length ? rate(rates[rates.length - 1]) : "–");
  write($("peak"), rates.length ? `peak ${rate(peak)}, last two minutes` : "");
  const top = peak || 1;
  const x = (i) => (HISTORY - rates.length + 1 + i).toFixed(2);
  const y = (r) => (31 - (r / top) * 29).toFixed(2);
  const points = rates.map((r, i) => `${x(i)} ${y(r)}`);
  const line = points.length ? `M${points.join("L")}` : "";
  const [area, curve] = $("spark").children;
  curve.setAttribute("d", line);
  area.setAttribute("d", line && `${line}L${x(rates.length - 1)} 32L${x(0)} 32Z`);
}

function showTiles(status) {
  const { totals, open_circuits: open } = status;
  const held = status.grades.reduce((n, grade) => n + grade.reservations, 0);
  write($("circuits-open"), count(sum(open)));
  write($("circuits-kinds"), `${count(open.raw || 0)} raw, ${count(open.libp2p || 0)} libp2p`);
  write($("bytes-total"), bytes(sum(totals.bytes)));
  write($("circuits-total"), `in ${many(sum(totals.circuits), "circuit", "circuits")}`);
  write($("reservations-held"), count(held));
  write($("reservations-total"), `${count(totals.reservations.made || 0)} in all`);
  write($("connections"), count(status.connections));
  write($("connections-total"), `${count(totals.connections)} in all`);
  const { overlay } = status;
  $("overlay").hidden = !overlay;
  if (overlay) {
    write($("records"), count(overlay.records));
    write($("records-total"), `${bytes(overlay.bytes)}, ${many(overlay.nodes, "other relay", "other relays")}`);
  }
  write($("uptime"), span(status.uptime));
  write($("memory"), status.memory ? `${bytes(status.memory)} of memory` : "");
}

function showAddresses(addresses) {
  const list = $("addresses");
  const shown = Array.from(list.children, (item) => item.firstElementChild.textContent);
  if (shown.length === addresses.length && shown.every((text, i) => text === addresses[i])) return;
  list.replaceChildren(...addresses.map((address) => {
    const item = document.createElement("li");
    item.append(make("code", "", address));
    if (navigator.clipboard) {
      const button = make("button", "", "Copy");
      button.type = "button";
      button.setAttribute("aria-label", `Copy ${address}`);
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(address);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Failed";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
      item.append(button);
    }
    return item;
  }));
}

const CLASSES = { user: "Users", stranger: "Strangers" };

function gradeCard(grade) {
  const card = make("section", "card grade");
  card.append(make("h2", "", CLASSES[grade.grade] || grade.grade));
  for (const name of ["Reservations", "Circuits"]) {
    const bar = make("div", "bar");
    const label = make("div", "label");
    label.append(make("span", "", name), make("span", "used"));
    const meter = make("div", "track");
    meter.setAttribute("role", "meter");
    meter.setAttribute("aria-label", `${name} of ${card.firstChild.textContent.toLowerCase()}`);
    meter.setAttribute("aria-valuemin", "0");
    meter.append(make("div"));
    bar.append(label, meter);
    card.append(bar);
  }
  const list = document.createElement("dl");
  for (const name of ["Time of a circuit", "Bytes each way", "Bandwidth of all"]) {
    list.append(make("dt", "", name), make("dd"));
  }
  card.append(list);
  return card;
}

function showGrades(grades) {
  const section = $("grades");
  while (section.children.length > grades.length) section.lastElementChild.remove();
  grades.forEach((grade, i) => {
    let card = section.children[i];
    if (!card || card.dataset.grade !== grade.grade) {
      const fresh = gradeCard(grade);
      fresh.dataset.grade = grade.grade;
      if (card) card.replaceWith(fresh);
      else section.append(fresh);
      card = fresh;
    }
    const uses = [
      [grade.reservations, grade.reservations_limit],
      [grade.circuits, grade.circuits_limit],
    ];
    card.querySelectorAll(".bar").forEach((bar, j) => {
      const [used, most] = uses[j];
      const meter = bar.lastElementChild;
      write(bar.querySelector(".used"), grade.served ? `${count(used)} of ${count(most)}` : count(used));
      meter.setAttribute("aria-valuemax", Math.max(most, used));
      meter.setAttribute("aria-valuenow", used);
      meter.classList.toggle("scarce", used >= 0.9 * most);
      meter.firstElementChild.style.width = `${most ? Math.min(100, (100 * used) / most) : 0}%`;
    });
    const words = grade.served
      ? [
          grade.duration ? `at most ${span(grade.duration)}` : "no limit",
          grade.data ? `at most ${limit(grade.data)}` : "no limit",
          grade.rate ? `${rate(grade.rate)}, shared fairly` : "no limit",
        ]
      : ["not served here", "–", "–"];
    card.querySelectorAll("dd").forEach((dd, j) => write(dd, words[j]));
  });
}

function showTables(status) {
  fill(
    $("circuits"),
    status.circuits.map((c) => [
      String(c.number),
      c.rate ? "" : "idle",
      [
        [`tag ${c.kind}`, c.kind], ["mono", c.source], ["mono", c.target], c.grade,
        span(c.age), bytes(c.sent), bytes(c.received), rate(c.rate),
      ],
    ]),
    "No circuit is open.",
  );
  if (status.more_circuits) write($("circuits-more"), `… and ${count(status.more_circuits)} more`);
  fill(
    $("reservations"),
    status.reservations.map((r, i) => [
      `${r.peer} ${i}`, "", [["mono", r.peer], r.grade, count(r.circuits), span(r.expires_in)],
    ]),
    "Nobody has a reservation.",
  );
  if (status.more_reservations) {
    write($("reservations-more"), `… and ${count(status.more_reservations)} more`);
  }
  const refused = Object.entries(status.overlay ? status.overlay.refused : {});
  const refusals = Object.entries(status.totals.refusals)
    .concat(refused.map(([reason, n]) => [`record: ${reason}`, n]))
    .filter(([, n]) => n);
  fill(
    $("refusals"),
    refusals
      .sort((a, b) => b[1] - a[1])
      .map(([reason, n]) => [reason, "", [["reason", reason.replaceAll("_", " ")], count(n)]]),
    "Nothing was refused since the start.",
  );
}

function show(status) {
  write($("peer"), short(status.peer_id));
  $("peer").title = status.peer_id;
  write($("version"), ` · version ${status.version}`);
  setState(status.draining ? "draining" : "live");
  showThroughput(status);
  showTiles(status);
  showAddresses(status.addresses);
  showGrades(status.grades);
  showTables(status);
  document.title = `${count(sum(status.open_circuits))} circuits · pt relay`;
  $("content").hidden = false;
}

function setState(state) {
  write($("state"), state);
  $("state").className = `pill ${state}`;
  document.body.classList.toggle("stale", state === "lost");
  $("lost").hidden = state !== "lost";
  write($("lost"), state === "lost" ? "Connection to the relay lost; trying again every second." : "");
}

// --- time ----------------------------------------------------------------------------------------

async function ask() {
  timer = 0;
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("/status.json", { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    show(await answer.json());
  } catch {
    setState("lost");
  } finally {
    asking = false;
    if (!document.hidden) timer = setTimeout(ask, PERIOD);
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  timer = 0;
  if (!document.hidden) ask();
});
ask();
