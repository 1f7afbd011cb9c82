// What is shown of the comparison: the filters act on every part; the view stands in the address, so that it can be shared.

const data = JSON.parse(document.getElementById("data").textContent);
data.cells.forEach((cell, index) => { cell.index = index; });
const FACETS = { backend: "backend", arch: "arch", encoder: "encoder", data: "dataset", status: "status" };
const PAPER = 1010; // pixels: the width of a plot on paper
const elements = new Map();
// An element by its id, also after its section has gone for want of anything to show.
const by = (id) => elements.get(id) ?? elements.set(id, document.getElementById(id)).get(id);
const knows = (key) => data.cells.filter((cell) => cell.figures[key] !== undefined).length > 1;
const usable = data.axes.filter((axis) => data.cells.some((cell) => cell.figures[axis.key] !== undefined));
const FIRST = {
  words: "", backend: [], arch: [], encoder: [], data: [], status: [], sort: "", over: "epoch", xlog: "auto", ylog: "auto",
  y: ["mIoU", "latency_ms_median", ...usable.map((axis) => axis.key)].find(knows) ?? usable[0]?.key ?? "",
};
FIRST.x = ["latency_ms_median", "gmacs", "params", ...usable.map((axis) => axis.key)].find((key) => knows(key) && key !== FIRST.y) ?? FIRST.y;
let view = { ...FIRST };
let printing = false;

// A part is drawn when it comes into sight, and again when the view has changed since.
const PARTS = [
  { id: "results", name: "Results", draw: drawResults, has: () => data.cells.length > 0 },
  { id: "scatter", name: "Costs", draw: drawScatter, has: () => FIRST.x !== FIRST.y },
  { id: "libraries", name: "Libraries", draw: drawLibraries, has: () => groupsOfLibraries(data.cells).size > 0 },
  { id: "classes", name: "Classes", draw: drawClasses, has: () => data.cells.some((cell) => cell.classes) },
  { id: "curves", name: "Curves", draw: drawCurves, has: () => data.cells.some((cell) => cell.curves.length) },
  { id: "latency", name: "Latency", draw: drawLatency, has: () => data.profiles.some((profile) => profile.latency[0] !== null) },
  { id: "throughput", name: "Throughput", draw: drawThroughput, has: () => data.profiles.some((profile) => profile.batches.length > 1) },
  { id: "stages", name: "Stages", draw: drawStages, has: () => data.profiles.some((profile) => Object.values(profile.stages).some(Boolean)) },
  { id: "memory", name: "Memory", draw: drawMemory, has: () => data.profiles.some((profile) => profile.memory.some(Boolean)) },
  { id: "gmacs", name: "GMac", draw: drawGmacs, has: () => data.profiles.some((profile) => profile.gmacs !== null) },
  { id: "published", name: "Published", has: () => by("part-published").querySelector("tr") !== null },
  { id: "predictions", name: "Predictions", draw: drawPictures, has: () => by("part-predictions").querySelector("figure") !== null },
  { id: "failures", name: "Failures", draw: drawFailures, has: () => data.failures.length > 0 },
  { id: "runs", name: "Commands", draw: drawRuns, has: () => true },
];
let shownCells = data.cells;
let shownIndices = new Set(); // as texts, as they stand in the page

function passes(cell, words) {
  return words.every((word) => cell.words.includes(word))
    && Object.keys(FACETS).every((key) => !view[key].length || view[key].includes(cell[key]));
}

function update(change) {
  view = { ...view, ...change };
  const said = addressOf(view);
  history.replaceState(null, "", said ? `#${said}` : location.pathname + location.search);
  show();
}

function show() {
  const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
  shownCells = data.cells.filter((cell) => passes(cell, words));
  const all = data.cells.length;
  by("count").textContent = shownCells.length === all ? `${count(all)} cells` : `${count(shownCells.length)} of ${count(all)} cells`;
  shownIndices = new Set(shownCells.map((cell) => String(cell.index)));
  for (const { node, cells } of tagged) node.hidden = !cells.some((index) => shownIndices.has(index));
  for (const part of PARTS) part.isOld = true;
  if (printing) PARTS.forEach(draw);
  drawSoon();
  reflect();
}

// Draws the parts near the window one by one, those in it first, and lets what is typed meanwhile go before.
function drawSoon() {
  clearTimeout(drawSoon.timer);
  const near = PARTS.filter((part) => part.isOld && part.isNear);
  by("parts").setAttribute("aria-busy", near.length > 0);
  if (!near.length) return;
  const distance = ({ section }) => {
    const { top, bottom } = section.getBoundingClientRect();
    return Math.max(0, top - innerHeight, -bottom);
  };
  const next = near.reduce((best, part) => (distance(part) < distance(best) ? part : best));
  drawSoon.timer = setTimeout(() => { draw(next); drawSoon(); });
}

function draw(part) {
  if (!part.isOld) return;
  part.isOld = false;
  part.section.classList.remove("undrawn");
  if (part.draw) fill(part.section.querySelector(".host"), part.draw(shownCells).filter(Boolean));
  drawPending();
}

// What stays is left where it is: moved, it would lose the focus and how far it is scrolled.
function fill(host, nodes) {
  for (const child of [...host.children]) if (!nodes.includes(child)) child.remove();
  nodes.forEach((node, place) => {
    if (host.children[place] !== node) host.insertBefore(node, host.children[place] ?? null);
  });
}

// The rows that are there without the script and belong to some cells.
const tagged = [...document.querySelectorAll("tr[data-cells]")].filter((node) => node.dataset.cells)
  .map((node) => ({ node, cells: node.dataset.cells.split(" ") }));

// The view as the part of an address behind its #: only what is not as it was at first.
function addressOf(view) {
  const pairs = Object.keys(FIRST).filter((key) => String(view[key]) !== String(FIRST[key]))
    .flatMap((key) => (Array.isArray(view[key]) ? view[key].map((value) => [key, value]) : [[key, view[key]]]));
  return new URLSearchParams(pairs).toString();
}

function viewOf(address) {
  const said = new URLSearchParams(address.replace(/^#/, ""));
  const found = { ...FIRST };
  for (const key of Object.keys(FIRST))
    if (said.has(key)) found[key] = Array.isArray(FIRST[key]) ? said.getAll(key) : said.get(key);
  for (const side of ["x", "y"]) if (!usable.some((axis) => axis.key === found[side])) found[side] = FIRST[side];
  if (!["epoch", "seconds"].includes(found.over)) found.over = FIRST.over;
  return found;
}

// The controls say what the view is.
function reflect() {
  if (by("words").value !== view.words) by("words").value = view.words;
  for (const details of document.querySelectorAll(".facet")) {
    const chosen = view[details.dataset.key];
    details.classList.toggle("chosen", chosen.length > 0);
    details.firstChild.textContent = FACETS[details.dataset.key] + (chosen.length === 1 ? `: ${chosen[0]}` : chosen.length ? `: ${chosen.length}` : "");
    for (const box of details.querySelectorAll("input")) box.checked = chosen.includes(box.value);
  }
  by("reset").disabled = addressOf(view) === "";
  by("over").value = view.over;
  for (const side of ["x", "y"]) {
    by(side).value = view[side];
    const values = shownCells.map((cell) => cell.figures[view[side]]).filter((value) => value !== undefined);
    by(`${side}log`).checked = values.length > 0 && isLog(side, values);
    by(`${side}log`).disabled = values.length > 0 && Math.min(...values) <= 0;
  }
}

function makeFacets() {
  for (const key of Object.keys(FACETS)) {
    const groups = Map.groupBy(data.cells, (cell) => cell[key]);
    if (groups.size < 2) continue;
    const names = [...groups.keys()].sort(collator.compare);
    const boxes = names.map((name) => element("label", {}, element("input", { type: "checkbox", value: name }), ` ${name}`,
      element("span", {}, ` ${count(groups.get(name).length)}`)));
    const details = element("details", { class: "facet", "data-key": key }, element("summary", {}, FACETS[key]), element("div", {}, ...boxes));
    details.addEventListener("change", () => update({ [key]: [...details.querySelectorAll("input:checked")].map((box) => box.value) }));
    by("facets").append(details);
  }
}

function makeAxes() {
  for (const side of ["x", "y"]) {
    by(side).append(...usable.map((axis) => element("option", { value: axis.key }, axis.title)));
    by(side).addEventListener("change", () => update({ [side]: by(side).value, [`${side}log`]: "auto" }));
    by(`${side}log`).addEventListener("change", () => update({ [`${side}log`]: by(`${side}log`).checked ? "yes" : "no" }));
  }
  by("over").addEventListener("change", () => update({ over: by("over").value }));
}

function makeParts() {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const part = PARTS.find((one) => one.section === entry.target);
      part.isNear = entry.isIntersecting;
    }
    drawSoon();
  }, { rootMargin: "200px" });
  for (const part of [...PARTS]) {
    part.section = by(`part-${part.id}`);
    if (!part.has()) {
      part.section.remove();
      PARTS.splice(PARTS.indexOf(part), 1);
      continue;
    }
    if (part.draw && !part.section.querySelector(".static")) part.section.classList.add("undrawn");
    const link = element("button", { type: "button" }, part.name);
    link.addEventListener("click", () => part.section.scrollIntoView());
    by("contents").append(link);
    observer.observe(part.section);
  }
  if (!PARTS.some((part) => !["results", "failures", "runs"].includes(part.id)))
    by("part-results").after(element("section", {}, note("No run has an mIoU or a profile to plot.")));
}

function makeKeys() {
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("words").addEventListener("input", () => update({ words: by("words").value }));
  by("reset").addEventListener("click", () => update(FIRST));
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input[type=search], textarea");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      by("words").focus();
      by("words").select();
    }
    if (event.key !== "Escape") return;
    const open = document.querySelector(".facet[open]");
    if (open) {
      open.open = false;
      open.firstChild.focus();
    } else if (view.words) update({ words: "" });
  });
  document.addEventListener("click", (event) => {
    for (const details of document.querySelectorAll(".facet[open]")) if (!details.contains(event.target)) details.open = false;
  });
}

function makeTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const name = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  const label = () => { by("theme").textContent = name() === "dark" ? "Light" : "Dark"; };
  by("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = name() === "dark" ? "light" : "dark";
    label();
  });
  dark.addEventListener("change", label);
  label();
}

// On paper everything is there, as wide as the paper.
function setPrinting(is) {
  printing = is;
  show();
}

view = viewOf(location.hash);
makeFacets();
makeAxes();
makeKeys();
makeTheme();
makeParts();
show();
addEventListener("hashchange", () => { view = viewOf(location.hash); show(); });
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(false));
