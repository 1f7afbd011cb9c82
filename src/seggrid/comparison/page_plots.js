// The plots of scores: against costs with their Pareto fronts, and over epochs.

const GREY = "#7a838d"; // readable on white and on near-black; the style sheet refines the axes and the text
const MARKS = { smp: ["#3b82c4", "circle"], torchvision: ["#d9822b", "square"], mmseg: ["#2a9d78", "diamond"] };
const OTHER_MARK = ["#9b6bc4", "triangle-up"];
const LINES = ["#3b82c4", "#d9822b", "#2a9d78", "#9b6bc4", "#c2556e", "#c9a227", "#4aa3a2", "#8d6e4f", "#6b8e23", "#d16ba5"];
const NAMED_POINTS = 12; // with more of them only those of the front have their names beside them
const WHISKERS = 150; // points, with more of them only those of the front and the tied have whiskers
const frames = new Map();
const pending = [];

// The element of a plot, which is drawn once it is in the page: only there does it know its width.
function plot(name, traces, layout, minWidth = 580) {
  if (!frames.has(name)) {
    const inner = element("div", { class: "plot", id: `plot-${name}`, style: `min-width: ${minWidth}px` });
    frames.set(name, element("div", { class: "wide" }, inner));
  }
  const inner = frames.get(name).firstChild;
  inner.style.minWidth = printing ? "0" : `${minWidth}px`;
  const { xaxis, yaxis, ...rest } = layout;
  const axis = { automargin: true, gridcolor: "rgba(122,131,141,0.2)", zeroline: false };
  const whole = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, autosize: true,
    font: { color: GREY, family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: "#20262c", bordercolor: "#20262c", font: { color: "#ffffff" }, align: "left" },
    margin: { l: 16, r: 16, t: 16, b: 16 }, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
  if (printing) whole.width = PAPER;
  const config = { displaylogo: false, displayModeBar: false, responsive: true };
  pending.push(() => Plotly.react(inner, traces, whole, config));
  return frames.get(name);
}

function drawPending() {
  for (const draw of pending.splice(0)) draw();
}

// Plotly reads some HTML in texts; this makes it show them as they are.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const axisOf = (key) => data.axes.find((axis) => axis.key === key);
const isScored = (cell) => cell.figures.mIoU !== undefined;

// Plots in two columns where the window has room for them.
const beside = (plots) => element("div", { class: "multiples" }, ...plots);

function isWide(values) {
  const least = Math.min(...values), most = Math.max(...values);
  return least > 0 && most > 10 * least;
}

function scaleOf(isLog) {
  if (!isLog) return { type: "linear" };
  const ticks = [];
  for (let power = -4; power < 7; power++) for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  return { type: "log", tickvals: ticks, ticktext: ticks.map((tick) => tick.toLocaleString("en", { maximumFractionDigits: 4 })) };
}

// The Pareto fronts of two figures that have a better end, each among cells of one data set that were measured alike.
function frontsOf(cells, x, y) {
  if (!x.better || !y.better || x.key === y.key) return [];
  const known = cells.filter((cell) => cell.figures[x.key] !== undefined && cell.figures[y.key] !== undefined);
  const groups = Map.groupBy(known, (cell) => [cell.data, cell.alike[x.alike], cell.alike[y.alike]].join("\n"));
  return [...groups.values()].map((group) => {
    const cost = (cell) => (x.better === "low" ? 1 : -1) * cell.figures[x.key];
    const gain = (cell) => (y.better === "high" ? 1 : -1) * cell.figures[y.key];
    const sorted = [...group].sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a));
    const members = [];
    for (const cell of sorted) {
      const last = members.at(-1);
      const level = last && cost(cell) === cost(last) && gain(cell) === gain(last);
      if (!last || gain(cell) > gain(last) || level) members.push(cell);
    }
    return { members, size: group.length, alike: group[0].alike[x.alike] || group[0].alike[y.alike] };
  });
}

function drawScatter(cells) {
  const x = axisOf(view.x), y = axisOf(view.y);
  const known = cells.filter((cell) => cell.figures[x.key] !== undefined && cell.figures[y.key] !== undefined);
  if (!known.length) return [nothing()];
  const groups = Map.groupBy(known, (cell) => cell.data);
  return [...groups].flatMap(([name, group], number) => {
    const fronts = frontsOf(group, x, y).filter((front) => front.size > 1);
    const head = groups.size > 1 ? element("h3", {}, name) : null;
    const outlined = group.some((cell) => cell.tied) ? note("Outlined in red: the best; in yellow: what cannot be told apart from it.") : null;
    return [head, outlined, scatter(`scatter-${number}`, group, x, y, fronts), ...fronts.map((front) => members(front, fronts.length, x, y))];
  });
}

// The line of a front is the best y at each x, from the best x on: it keeps y until the next member, which is worse in x.
function scatter(name, cells, x, y, fronts) {
  const onFront = new Set(fronts.flatMap((front) => front.members));
  const few = cells.length <= NAMED_POINTS;
  const named = new Set(cells.map((cell) => cell.arch)).size > 1 ? "arch" : "encoder";
  const traces = fronts.map(({ members }) => ({
    x: members.map((cell) => cell.figures[x.key]), y: members.map((cell) => cell.figures[y.key]), mode: "lines",
    line: { color: GREY, width: 1.5, dash: "dot", shape: "hv" }, hoverinfo: "skip", name: "Pareto front",
    showlegend: members === fronts[0].members,
  }));
  for (const [backend, mine] of Map.groupBy(cells, (cell) => cell.backend)) {
    const [colour, symbol] = MARKS[backend] ?? OTHER_MARK;
    const sure = (cell) => cells.length <= WHISKERS || onFront.has(cell) || cell.rank === 1;
    traces.push({
      x: mine.map((cell) => cell.figures[x.key]), y: mine.map((cell) => cell.figures[y.key]), name: plain(backend),
      error_x: whiskers(mine, x, sure), error_y: whiskers(mine, y, sure), mode: "markers+text",
      text: mine.map((cell) => (few || onFront.has(cell) ? plain(cell[named]) : "")), textposition: "top center",
      textfont: { size: 12 }, cliponaxis: false, customdata: mine.map((cell) => said(cell, x, y)),
      hovertemplate: "%{customdata}<extra></extra>",
      marker: {
        color: colour, symbol, size: cells.length > WHISKERS ? 7 : 10,
        opacity: mine.map((cell) => (cells.length <= WHISKERS || onFront.has(cell) || cell.rank === 1 ? 1 : 0.55)),
        line: { width: mine.map((cell) => (cell.rank === 1 || cell.tied ? 2.5 : 1)), color: mine.map((cell) => (cell.rank === 1 ? "#c2556e" : cell.tied ? "#c9a227" : "white")) },
      },
    });
  }
  const logs = [["x", x], ["y", y]].map(([side, axis]) => isLog(side, cells.map((cell) => cell.figures[axis.key])));
  return plot(name, traces, {
    xaxis: { title: { text: plain(x.title) }, ...scaleOf(logs[0]) }, yaxis: { title: { text: plain(y.title) }, ...scaleOf(logs[1]) },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, height: 520, hovermode: "closest",
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false, showlegend: true,
  }, 340);
}

// Logarithmic where it was asked for, else where the values go over more than a power of ten of a cost.
function isLog(side, values) {
  const asked = view[`${side}log`];
  return asked === "auto" ? isWide(values) && axisOf(view[side]).better !== "high" : asked === "yes" && Math.min(...values) > 0;
}

// The interval of a figure; of an mIoU without one the standard deviation over the seeds.
function endsOf(cell, axis) {
  const middle = cell.figures[axis.key];
  if (cell.ends[axis.key] || axis.key !== "mIoU" || cell.spread === null) return cell.ends[axis.key] ?? null;
  return [middle - cell.spread, middle + cell.spread];
}

function whiskers(cells, axis, sure) {
  const ends = cells.map((cell) => (sure(cell) ? endsOf(cell, axis) : null));
  if (!ends.some(Boolean)) return undefined;
  const length = (end, sign) => ends.map((pair, place) => (pair ? Math.max(0, sign * (pair[end] - cells[place].figures[axis.key])) : 0));
  return { type: "data", symmetric: false, array: length(1, 1), arrayminus: length(0, -1), thickness: 1, width: 3 };
}

// All that a reader wants of a point.
function said(cell, x, y) {
  const keys = new Set(["mIoU", ...Object.keys(COSTS), y.key, x.key]);
  const lines = [...keys].map(axisOf).filter((axis) => cell.figures[axis.key] !== undefined).map((axis) => {
    const ends = cell.ends[axis.key];
    const sure = ends ? ` (${axis.key === "mIoU" ? "95 %: " : "p10 to p90: "}${ends.map((end) => end.toFixed(axis.digits)).join(" to ")})` : "";
    return `${cell.figures[axis.key].toFixed(axis.digits)} ${axis.unit}${sure}`;
  });
  if (cell.spread !== null) lines.push(`± ${cell.spread.toFixed(2)} over ${cell.n} seeds`);
  if (cell.tied) lines.push("cannot be told apart from the best");
  return [`<b>${plain(cell.label)}</b>`, ...lines.map(plain)].join("<br>");
}

function members(front, number, x, y) {
  const where = number > 1 && front.alike ? `, measured at ${front.alike}` : "";
  const head = note(`Pareto front of ${y.title} against ${x.title}${where}, by the figures themselves, whatever their intervals:`);
  const items = front.members.map((cell) => element("li", {}, cell.label, element("span", { class: "aside" },
    ` ${cell.figures[y.key].toFixed(y.digits)} ${y.unit}, ${cell.figures[x.key].toFixed(x.digits)} ${x.unit}`)));
  return element("div", {}, head, element("ol", { class: "members" }, ...items));
}

// mIoU and loss of the best cells; of several seeds each is thin and their mean is not.
function drawCurves(cells) {
  const all = cells.filter((cell) => cell.curves.length);
  if (!all.length) return [nothing()];
  const chosen = all.slice(0, LINES.length);
  const legend = element("ul", { class: "legend" }, ...chosen.map((cell, place) => element("li", {},
    element("span", { class: "swatch", style: `background: ${LINES[place]}` }), cell.label)));
  const scores = chosen.flatMap((cell, place) => curvesOf(cell, "mIoU", LINES[place], "solid", "%{y:.2f} %"));
  const losses = chosen.flatMap((cell, place) => [
    ...curvesOf(cell, "val_loss", LINES[place], "solid", "validation loss %{y:.4f}"),
    ...curvesOf(cell, "train_loss", LINES[place], "dot", "training loss %{y:.4f}"),
  ]);
  const x = { title: { text: view.over === "epoch" ? "epoch" : "seconds since the run began" }, rangemode: "tozero" };
  const drawn = [["curves-miou", scores, "validation mIoU (%)"], ["curves-loss", losses, "loss"]].filter(([, traces]) => traces.length);
  const notes = [];
  if (losses.some((trace) => trace.line.dash === "dot")) notes.push("Dotted: the training loss.");
  if (chosen.some((cell) => cell.curves.length > 1)) notes.push("Thin: the seeds; thick: their mean.");
  if (all.length > chosen.length) notes.push(`The best ${chosen.length} of ${count(all.length)} cells shown; filter for others.`);
  if (chosen.some((cell) => cell.curves.some((curve) => (curve.epoch ?? []).length === data.curve_length)))
    notes.push(`Of longer curves ${data.curve_length} evenly spaced epochs.`);
  const plots = drawn.map(([name, traces, title]) => plot(name, traces, { xaxis: x, yaxis: { title: { text: title } }, height: 380, showlegend: false }, 340));
  return [legend, beside(plots), notes.length ? note(notes.join(" ")) : null];
}

function curvesOf(cell, key, colour, dash, text) {
  const runs = cell.curves.filter((curve) => curve[key] && curve[view.over]);
  const line = (x, y, width, opacity, who) => ({
    x, y, mode: x.length > 1 ? "lines" : "markers", opacity, line: { color: colour, width, dash }, marker: { color: colour },
    hovertemplate: `<b>${plain(who)}</b><br>${text} at %{x:.4g}<extra></extra>`,
  });
  if (runs.length < 2) return runs.map((run) => line(run[view.over], run[key], 2, 1, cell.label));
  const length = Math.min(...runs.map((run) => run.epoch.length));
  const means = (name) => Array.from({ length }, (_, place) => {
    const known = runs.map((run) => run[name][place]).filter((value) => value !== null);
    return known.length === runs.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  });
  const joined = (name) => runs.flatMap((run) => [...run[name], null]); // one line with gaps is quicker than several
  const seeds = `${cell.label}, seeds ${runs.map((run) => run.seed).join(", ")}`;
  return [line(joined(view.over), joined(key), 1, 0.45, seeds), line(means(view.over), means(key), 2.5, 1, `${cell.label}, mean of ${runs.length}`)];
}
