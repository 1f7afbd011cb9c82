// The tables of the page: results, libraries side by side, classes, reasons, runs.

const ROWS = { results: 100, libraries: 40, runs: 40 }; // until all are asked for
const HEAT_ROWS = 60;
const PRINTED_CLASSES = { values: 16, shades: 50 }; // beside each other on paper, where nothing can be scrolled
const VALUES_UP_TO = 24; // classes; beyond them the columns are too narrow for their values
const FIGURES = 12; // predictions of an image
const COSTS = { latency_ms_median: "latency", gmacs: "GMac", inference_memory_bytes: "memory", params: "params" };
const FACTS = ["output_stride", "encoder_depth", "decoder_channels"];
const opened = new Set(); // tables of which all rows were asked for
const rowsOfCells = new Map();

// An element; `children` are nodes or texts, which are never read as HTML.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const note = (text) => element("p", { class: "note" }, text);
const count = (number) => number.toLocaleString("en");

// As many of the rows as a table shows at first, and the button that shows the rest.
function limited(name, rows) {
  const shown = opened.has(name) || printing ? rows : rows.slice(0, ROWS[name]);
  if (shown.length === rows.length) return [shown, null];
  const button = element("button", { type: "button", class: "more" }, `Show all ${count(rows.length)} rows`);
  button.addEventListener("click", () => { opened.add(name); show(); });
  return [shown, button];
}

function drawResults(cells) {
  const [key, direction] = view.sort.split(":");
  const place = data.columns.findIndex((column) => column.key === key);
  markFronts(cells); // before they are sorted, maybe by these marks
  const sorted = place < 0 ? cells : sortedBy(cells, place, direction);
  const [shown, more] = limited("results", sorted);
  const table = document.getElementById("results") ?? resultsTable();
  for (const head of table.tHead.rows[0].cells) {
    const initial = place < 0 && head.dataset.key === "mIoU" && new Set(data.cells.filter(isScored).map((cell) => cell.data)).size === 1;
    if (head.dataset.key === key) head.setAttribute("aria-sort", direction);
    else if (initial) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
  }
  table.tBodies[0].replaceChildren(...shown.map(rowOf));
  const said = [];
  if (data.cells.some((cell) => cell.tied)) said.push("Tied: cannot be told apart from the best.");
  if (data.cells.some((cell) => cell.n > 1)) said.push("±: the standard deviation over the seeds, whose number follows.");
  if (data.columns.some((column) => column.key === "fronts"))
    said.push("Pareto front: no other cell shown has a higher mIoU at a lower cost of that kind.");
  said.push("Stride, depth and decoder width say what was built: the same architecture is not the same network in two libraries.");
  const frame = table.parentElement ?? element("div", { class: "wide" }, table);
  return [frame, more, note(said.join(" "))];
}

function resultsTable() {
  const heads = data.columns.map((column) => {
    const button = element("button", { type: "button" }, column.head);
    button.addEventListener("click", () => sortBy(column));
    return element("th", { scope: "col", class: column.word ? "word" : "number", "data-key": column.key }, button);
  });
  return element("table", { class: "sortable", id: "results" },
    element("thead", {}, element("tr", {}, ...heads)), element("tbody"));
}

function sortBy(column) {
  const head = document.querySelector(`#results th[data-key="${column.key}"]`);
  const last = head.getAttribute("aria-sort");
  const next = !last ? (column.high ? "descending" : "ascending") : last === "ascending" ? "descending" : "ascending";
  update({ sort: `${column.key}:${next}` });
}

// Numbers as numbers, what is empty last in both directions.
function sortedBy(cells, place, direction) {
  const value = (cell) => cell.order[place];
  const numbers = cells.every((cell) => value(cell) === null || typeof value(cell) === "number");
  const compare = numbers ? (a, b) => a - b : (a, b) => collator.compare(a, b);
  return [...cells].sort((one, other) => {
    const a = value(one), b = value(other);
    if (a === null || b === null) return (a === null) - (b === null);
    return direction === "ascending" ? compare(a, b) : compare(b, a);
  });
}
const collator = new Intl.Collator("en", { numeric: true });

function rowOf(cell) {
  if (!rowsOfCells.has(cell.index)) {
    const parts = data.columns.map((column, place) => element("td", { class: column.word ? "word" : "number" }, ...shownIn(cell, column.key, place)));
    const state = cell.rank === 1 ? "winner" : cell.status === "completed" ? "" : "unfinished";
    rowsOfCells.set(cell.index, element("tr", { class: state, title: cell.label }, ...parts));
  }
  const row = rowsOfCells.get(cell.index);
  const place = data.columns.findIndex((column) => column.key === "fronts");
  if (place >= 0) row.cells[place].textContent = cell.texts[place];
  return row;
}

// What stands in a table for a figure of a cell, and how sure it is.
function shownIn(cell, key, place) {
  const text = cell.texts[place];
  if (key === "rank" && cell.tied)
    return [text, element("span", { class: "tag", title: "cannot be told apart from the best" }, "tied")];
  if (key === "mIoU" && cell.spread !== null)
    return [text, element("span", { class: "aside" }, ` ± ${cell.spread.toFixed(2)} (${cell.n})`)];
  if (key === "interval" && text) return [element("span", { class: "aside" }, text), range(cell)];
  return [text];
}

// The interval of the mIoU as a line, on one scale for all cells.
function range(cell) {
  const all = scaleOfIntervals();
  const at = (value) => `${(100 * (value - all[0])) / (all[1] - all[0] || 1)}%`;
  const [low, high] = cell.ends.mIoU;
  return element("span", { class: "range", "aria-hidden": "true" },
    element("i", { style: `left: ${at(low)}; right: calc(100% - ${at(high)})` }),
    element("b", { style: `left: ${at(cell.figures.mIoU)}` }));
}

function scaleOfIntervals() {
  scaleOfIntervals.known ??= data.cells.reduce(
    ([low, high], { ends }) => (ends.mIoU ? [Math.min(low, ends.mIoU[0]), Math.max(high, ends.mIoU[1])] : [low, high]),
    [Infinity, -Infinity]);
  return scaleOfIntervals.known;
}

// Says of each cell on which fronts of mIoU against a cost it lies, among the cells shown.
function markFronts(cells) {
  const place = data.columns.findIndex((column) => column.key === "fronts");
  if (place < 0) return;
  for (const cell of data.cells) { cell.texts[place] = ""; cell.order[place] = null; }
  for (const [key, name] of Object.entries(COSTS))
    for (const { members } of frontsOf(cells, axisOf(key), axisOf("mIoU")))
      for (const cell of members) {
        cell.texts[place] += (cell.texts[place] ? ", " : "") + name;
        cell.order[place] = cell.texts[place];
      }
}

// A group of rows for each architecture and encoder that several libraries have.
function drawLibraries(cells) {
  const groups = [...groupsOfLibraries(cells).values()];
  const keys = ["mIoU", "interval", "params", "gmacs", ...FACTS, "latency_ms_median", "inference_memory_bytes", "s_per_iter"];
  const columns = keys.map((key) => data.columns.findIndex((column) => column.key === key)).filter((place) => place >= 0);
  const heads = ["library", ...columns.map((place) => data.columns[place].head)];
  const rows = groups.map((group) => {
    const title = element("tr", { class: "group" }, element("td", { colspan: heads.length }, groupName(group[0])));
    return [title, ...group.map((cell) => libraryRow(cell, group, columns))];
  });
  const [shown, more] = limited("libraries", rows.flat());
  if (!shown.length) return [nothing()];
  const head = heads.map((text, place) => element("th", { scope: "col", class: place ? "number" : null }, text));
  const table = element("table", { id: "libraries" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...shown));
  const explained = note("Bold: facts in which the libraries' networks differ under one name.");
  return [element("div", { class: "wide" }, table), more, explained];
}

function groupsOfLibraries(cells) {
  const groups = Map.groupBy(cells, (cell) => [cell.arch, cell.encoder, cell.data].join("\n"));
  for (const [key, group] of groups) {
    const several = new Set(group.map((cell) => cell.backend)).size > 1;
    if (!several || !group.some((cell) => cell.status === "completed")) groups.delete(key);
  }
  return groups;
}

function groupName(cell) {
  const several = new Set(data.cells.map((other) => other.data)).size > 1;
  return `${cell.arch} / ${cell.encoder}${several ? ` / ${cell.data}` : ""}`;
}

function libraryRow(cell, group, columns) {
  const known = group.filter((other) => other.status === "completed");
  const more = cell.label.slice(`${cell.backend} / ${cell.arch} / ${cell.encoder}`.length);
  const parts = columns.map((place) => {
    const key = data.columns[place].key;
    const differs = FACTS.includes(key) && new Set(known.map((other) => other.texts[place])).size > 1;
    return element("td", { class: differs ? "number differs" : "number" }, ...shownIn(cell, key, place));
  });
  return element("tr", { class: cell.status === "completed" ? "" : "unfinished", title: cell.label },
    element("td", {}, cell.backend, element("span", { class: "aside" }, more)), ...parts);
}

function drawClasses(cells) {
  const groups = Map.groupBy(cells.filter((cell) => cell.classes), (cell) => cell.data);
  if (!groups.size) return [nothing()];
  return [...groups].flatMap(([name, all], number) => {
    const head = groups.size > 1 ? element("h3", {}, name) : null;
    return [head, ...heatMap(`classes-${number}`, all, data.classes[name])];
  });
}

// A table in which the darker field has the higher IoU: of so many fields quicker than a plot, and read out as one.
function heatMap(name, all, classes) {
  const cells = all.slice(0, HEAT_ROWS);
  const few = classes.length <= VALUES_UP_TO;
  const width = printing ? PRINTED_CLASSES[few ? "values" : "shades"] : classes.length;
  const tables = [];
  for (let start = 0; start < classes.length; start += width) {
    const places = classes.map((_, place) => place).slice(start, start + width);
    const heads = places.map((place) => element("th", { scope: "col", title: classes[place] }, element("span", {}, classes[place])));
    const rows = cells.map((cell) => element("tr", {}, element("th", { scope: "row", title: cell.label }, element("span", {}, cell.label)),
      ...places.map((place) => classField(cell, classes[place], cell.classes[place], few))));
    const table = element("table", { class: few ? "heat" : "heat narrow", id: start ? null : name },
      element("thead", {}, element("tr", {}, element("td"), ...heads)), element("tbody", {}, ...rows));
    tables.push(element("div", { class: "wide" }, table));
  }
  const notes = [few ? "Per cent." : "From 0 (pale) to 100 % (dark)."];
  if (all.length > cells.length) notes.push(`The best ${cells.length} of ${count(all.length)} cells shown; filter for others.`);
  if (cells.some((cell) => cell.classes.includes(null))) notes.push(`${few ? "n/a" : "Blank"}: the class is in no label and in no prediction.`);
  return [...tables, note(notes.join(" "))];
}

function classField(cell, name, iou, few) {
  const text = iou === null ? "n/a" : few ? iou.toFixed(1) : "";
  const said = iou === null ? text : `${iou.toFixed(2)} %`;
  const shade = iou === null ? null : `background: rgb(59 130 196 / ${(0.04 + 0.0068 * iou).toFixed(3)})`;
  return element("td", { style: shade, title: `${name}: ${said}, ${cell.label}` }, few ? text : "");
}

// Of each image the first predictions of the cells shown.
function drawPictures() {
  for (const row of document.querySelectorAll(".pictures")) {
    let number = 0;
    for (const figure of row.children) {
      const isShown = !figure.dataset.cells || shownIndices.has(figure.dataset.cells);
      if (figure.dataset.cells && isShown) number += 1;
      figure.hidden = !isShown || (number > FIGURES && !opened.has("pictures"));
    }
    row.dataset.number = number;
  }
  const numbers = [...document.querySelectorAll(".pictures")].map((row) => Number(row.dataset.number));
  const most = Math.max(...numbers);
  if (most === 0) return [nothing()];
  if (most <= FIGURES || opened.has("pictures")) return [];
  const button = element("button", { type: "button", class: "more" }, `Show all ${most} predictions of an image`);
  button.addEventListener("click", () => { opened.add("pictures"); show(); });
  return [button];
}

function drawFailures(cells) {
  const shown = new Set(cells.map((cell) => cell.index));
  const parts = data.failures.flatMap((group) => {
    const labels = group.cells.filter((index) => shown.has(index)).map((index) => data.cells[index].label);
    if (!labels.length) return [];
    const number = labels.length === 1 ? "" : `, ${count(labels.length)} cells`;
    const reason = element("dt", {}, group.reason, element("span", { class: "status" }, group.status + number));
    const list = labels.join(" · ");
    const some = `${labels.slice(0, 6).join(" · ")} …`;
    return [reason, labels.length > 8 && !printing
      ? element("dd", {}, element("details", {}, element("summary", {}, some), list)) : element("dd", {}, list)];
  });
  return parts.length ? [element("dl", { class: "reasons" }, ...parts)] : [nothing()];
}

function drawRuns(cells) {
  const shown = new Set(cells.map((cell) => cell.index));
  const shared = data.shared.flatMap(([head, text]) => [element("dt", {}, head), element("dd", {}, text)]);
  const commands = data.commands.map(({ folder, command }) =>
    element("p", { class: "command" }, `The sweep ${folder}: `, element("code", {}, command), copyButton(command)));
  const [runs, more] = limited("runs", data.runs.filter((run) => run.cell === null || shown.has(run.cell)));
  const heads = data.run_heads.map((text) => element("th", { scope: "col" }, text));
  const rows = runs.map(({ texts }) => element("tr", {}, ...texts.map((text, place) => element("td", {},
    ...(place < texts.length - 1 ? [text] : [element("code", {}, text), copyButton(text)])))));
  const table = element("table", { class: "runs" }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  return [element("dl", { class: "shared" }, ...shared), ...commands, element("div", { class: "wide" }, table), more];
}

function copyButton(text) {
  const button = element("button", { type: "button", class: "copy" }, "copy");
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      document.execCommand("copy"); // a page from disk may not be allowed the other; this copies what is selected
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  return button;
}

const nothing = () => note("None of the cells shown has this.");
