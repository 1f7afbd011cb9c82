// The plots of what cells cost: time, where it goes, memory, multiply-adds.

const STAGES = { encoder: "#3b82c4", decoder: "#2a9d78", loss: "#c9a227", backward: "#d9822b", optimizer: "#9b6bc4" };
const MAKING = "#8d99a6"; // data: no part of a step, it is made beside it
const DASHES = ["solid", "dash", "dot", "dashdot"];
const ROW = 30; // pixels
const COST_ROWS = 40;

// The profiles of the cells shown, in their order, that have a figure; and a line where they are too many for a plot.
function profilesOf(cells, has) {
  const place = new Map(cells.map((cell, index) => [cell.index, index]));
  const first = (profile) => Math.min(...profile.cells.map((index) => place.get(index) ?? Infinity));
  const all = data.profiles.filter((profile) => has(profile) && first(profile) < Infinity);
  if (data.profiles.length > COST_ROWS) all.sort((one, other) => first(one) - first(other));
  const left = all.length > COST_ROWS ? note(`The first ${COST_ROWS} of ${count(all.length)} profiles shown; filter for others.`) : null;
  return [all.slice(0, COST_ROWS), left];
}

function drawLatency(cells) {
  const [profiles, left] = profilesOf(cells, (profile) => profile.latency[0] !== null);
  if (!profiles.length) return [nothing()];
  const samples = profiles.flatMap((profile, place) => profile.samples.map((value) => [value, place, plain(profile.label)]));
  const traces = [{
    x: samples.map(([value]) => value), y: samples.map(([, place]) => place), mode: "markers", name: "samples", cliponaxis: false,
    marker: { color: GREY, opacity: 0.35, size: 6 }, customdata: samples.map(([, , label]) => label),
    hovertemplate: "%{x:.2f} ms, one sample<br>%{customdata}<extra></extra>",
  }];
  const places = profiles.map((profile, place) => ({ profile, place }));
  for (const [backend, mine] of Map.groupBy(places, ({ profile }) => profile.backend)) {
    const [colour, symbol] = MARKS[backend] ?? OTHER_MARK;
    const ends = mine.map(({ profile: { latency: [median, low, high] } }) => [median, low ?? median, high ?? median]);
    traces.push({
      x: ends.map(([median]) => median), y: mine.map(({ place }) => place), mode: "markers", name: plain(backend),
      error_x: {
        type: "data", symmetric: false, array: ends.map(([median, , high]) => high - median),
        arrayminus: ends.map(([median, low]) => median - low), thickness: 2, width: 6,
      },
      customdata: mine.map(({ profile }, index) => [plain(profile.label), ends[index][1], ends[index][2]]),
      hovertemplate: "<b>%{customdata[0]}</b><br>%{x:.2f} ms, p10 %{customdata[1]:.2f}, p90 %{customdata[2]:.2f}<extra></extra>",
      marker: { color: colour, symbol, size: 11, line: { width: 1, color: "white" } },
    });
  }
  const isLogarithmic = isWide(profiles.map((profile) => profile.latency[0]));
  const xaxis = { title: { text: "latency of one image (ms)" }, rangemode: "tozero", ...scaleOf(isLogarithmic) };
  const frame = plot("latency", traces, { ...rowsOf(profiles), xaxis });
  return [frame, left, note("Median, with whiskers from p10 to p90; grey: every sample.")];
}

function drawThroughput(cells) {
  const [profiles, left] = profilesOf(cells, (profile) => profile.batches.length > 1);
  if (!profiles.length) return [nothing()];
  const traces = profiles.map((profile, place) => ({
    x: profile.batches.map(([size]) => size), y: profile.batches.map(([, speed]) => speed), mode: "lines+markers",
    name: plain(profile.label), cliponaxis: false,
    line: { color: LINES[place % LINES.length], dash: DASHES[Math.floor(place / LINES.length) % DASHES.length], width: 2 },
    hovertemplate: `<b>${plain(profile.label)}</b><br>%{y:.1f} images/s at batch %{x}<extra></extra>`,
  }));
  const ticks = [...new Set(profiles.flatMap((profile) => profile.batches.map(([size]) => size)))].sort((a, b) => a - b);
  const frame = plot("throughput", traces, {
    xaxis: { title: { text: "batch size" }, type: "log", tickvals: ticks, ticktext: ticks.map(String) },
    yaxis: { title: { text: "images/s" }, rangemode: "tozero" }, showlegend: true, height: Math.max(420, 22 * profiles.length + 60),
    legend: innerWidth < 700 ? { orientation: "h", x: 0, y: -0.25 } : { x: 1.02, y: 1 },
  });
  return [frame, left];
}

function drawStages(cells) {
  const [profiles, left] = profilesOf(cells, (profile) => Object.values(profile.stages).some(Boolean));
  if (!profiles.length) return [nothing()];
  const bars = Object.entries(STAGES).map(([stage, colour]) => [stage, stage, colour, 0, 0.5]);
  bars.push(["data", "data, in one process", MAKING, 0.36, 0.18]); // a bar of its own, below that of the step
  const traces = bars.filter(([stage]) => profiles.some((profile) => profile.stages[stage])).map(([stage, name, colour, below, width]) => ({
    type: "bar", orientation: "h", name, width, marker: { color: colour }, x: profiles.map((profile) => profile.stages[stage] ?? 0),
    y: profiles.map((_, place) => place + below), customdata: profiles.map((profile) => plain(profile.label)),
    hovertemplate: `<b>${name}</b> %{x:.2f} ms<br>%{customdata}<extra></extra>`,
  }));
  const rows = rowsOf(profiles);
  const layout = { ...rows, barmode: "stack", xaxis: { title: { text: "a training step (ms)" } }, legend: { ...rows.legend, traceorder: "normal" } };
  const whole = profiles.some(({ stages }) => stages.decoder && !stages.encoder);
  return [plot("stages", traces, layout), left, whole ? note("Where there is no encoder, the decoder is the whole forward pass.") : null];
}

function drawMemory(cells) {
  const [profiles, left] = profilesOf(cells, (profile) => profile.memory.some(Boolean));
  if (!profiles.length) return [nothing()];
  const named = ["inference, batch 1", "training step"];
  const bars = named.map((name, place) => [name, profiles.map((profile) => profile.memory[place])]);
  const lacking = profiles.filter((profile) => profile.based === null).map((profile) => profile.label);
  const isBased = profiles.some((profile) => profile.based);
  let text = isBased ? "Without what the process held before the model was built." : "";
  if (isBased && lacking.length) text += ` That is not known of ${lacking.join(", ")}.`;
  return [costBars("memory", profiles, bars, "peak memory (GiB)"), left, text ? note(text) : null];
}

function drawGmacs(cells) {
  const [profiles, left] = profilesOf(cells, (profile) => profile.gmacs !== null);
  if (!profiles.length) return [nothing()];
  return [costBars("gmacs", profiles, [["GMac", profiles.map((profile) => profile.gmacs)]], "10⁹ multiply-adds of one image"), left];
}

function costBars(name, profiles, bars, title) {
  const known = bars.filter(([, values]) => values.some(Boolean));
  const traces = known.map(([head, values], place) => ({
    type: "bar", orientation: "h", name: head, x: values, y: profiles.map((_, row) => row), marker: { color: LINES[place] },
    text: values.map((value) => (value === null ? "" : value.toFixed(2))), textposition: "outside", cliponaxis: false,
    customdata: profiles.map((profile) => plain(profile.label)), hovertemplate: `%{x:.3f}, ${head}<br>%{customdata}<extra></extra>`,
  }));
  const most = Math.max(0, ...known.flatMap(([, values]) => values.map((value) => value ?? 0)));
  const xaxis = { title: { text: title }, range: [0, 1.08 * most || 1] }; // room for the last bar's figure
  return plot(name, traces, { ...rowsOf(profiles, known.length), barmode: "group", xaxis, showlegend: known.length > 1 });
}

// Each profile has a row, the first on top.
function rowsOf(profiles, bars = 1) {
  const number = profiles.length;
  return {
    // Positions, not names, on the axis: plotly would take names such as "1" for numbers.
    yaxis: {
      range: [number - 0.4, -0.6], tickvals: profiles.map((_, place) => place), ticktext: profiles.map((profile) => plain(profile.label)),
      ticksuffix: "  ", fixedrange: true, showgrid: false, ticks: "",
    },
    height: (bars === 1 ? ROW : 24 * bars) * number + 110, showlegend: true, bargap: 0.35,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
  };
}
