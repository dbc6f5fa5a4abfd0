"use strict";
// The page keeps the time: it asks for one step, waits for its frame, and asks for the next.

const get = (id) => document.getElementById(id);
const KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", " "];
const DEAD_ZONE = 0.15;

let socket, world;              // what the server told at first
let moment = null;              // the last one shown
let past = [];               // all of this episode
let waiting = false, paused = false, single = false, lastAsked = 0, gripper = -1;
const held = new Set(), tapped = new Set();
const arrivals = [];            // times of the last frames
let padButtons = [];
let queue = Promise.resolve();  // messages are shown in the order in which they came

function connect() {
  const address = new URL("socket", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    queue = queue.then(() => receive(event.data)).catch((error) => tell(String(error)));
  };
  socket.onclose = (event) => {
    world = null;
    banner((event.reason || "The connection is lost.") + " Load the page anew to go on.");
    tell("Disconnected.");
  };
}

async function receive(data) {
  const length = new DataView(data).getUint32(0);
  const record = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const body = new Uint8Array(data, 4 + length);
  if (record.event === "hello") greet(record);
  if (record.event === "moment") await show(record, body);
  if (record.event === "file") download(record, body);
  if (record.event === "error") { tell(record.message); waiting = false; }
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// ---- choosing -------------------------------------------------------------------------------

function greet(record) {
  world = record;
  get("model").textContent = world.model;
  get("threshold").setAttribute("y1", 1 - world.threshold);
  get("threshold").setAttribute("y2", 1 - world.threshold);
  get("lift").hidden = world.action_size < 3;
  get("grip").hidden = world.action_size < 4;
  get("auto-label").hidden = !world.policy;
  if (world.policy) get("auto-name").textContent = world.policy;
  makeStateRows();
  const pictures = Object.entries(world.tasks).map(([task, starts]) =>
    picture("task", task, starts[0], task, () => chooseTask(task)));
  get("tasks").replaceChildren(...pictures);
  document.querySelector(`input[name=task][value="${CSS.escape(world.task)}"]`).checked = true;
  chooseTask(world.task);
}

function picture(group, value, start, name, chosen) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: group, value });
  const image = Object.assign(document.createElement("img"), {
    src: `start/${start}.webp`, width: 64, height: 64, loading: "lazy", alt: "" });
  input.addEventListener("change", chosen);
  input.addEventListener("click", (event) => { if (event.detail) get("stage").focus(); });
  label.append(input, image);
  if (group === "task") label.append(Object.assign(document.createElement("span"), { textContent: name }));
  else input.setAttribute("aria-label", name);
  return label;
}

function chooseTask(task) {
  world.task = task;
  const starts = world.tasks[task];
  get("starts").replaceChildren(...starts.map((start, i) =>
    picture("start", String(start), start, `start ${i + 1} of ${starts.length}`, () => begin(start))));
  begin(null);
}

function begin(start) {
  waiting = true;
  single = false;
  gripper = -1;
  tapped.clear();
  setPaused(false);
  send({ do: "begin", task: world.task, start });
}

// ---- showing --------------------------------------------------------------------------------

async function show(record, body) {
  const image = await createImageBitmap(new Blob([body], { type: "image/webp" }));
  const canvas = get("frame");
  if (canvas.width !== image.width) canvas.width = canvas.height = image.width;
  canvas.getContext("2d").drawImage(image, 0, 0);
  image.close();
  const before = moment;
  moment = record;
  if (record.step === 0) past = [];
  past.push(record);
  if (record.step > 0) arrivals.push(performance.now());
  waiting = false;
  canvas.dataset.step = record.step;
  drawFigures();
  announce(record, record.step ? before : null);
}

function announce(record, before) {
  if (record.step === 0) {
    banner("");
    tell(`${record.task}. ${driving() ? `${world.policy} drives.` : "Hold a key to act."}`);
    const input = document.querySelector(`input[name=start][value="${record.start}"]`);
    if (input) input.checked = true;
  } else if (record.solved && !past.slice(0, -1).some((one) => one.solved)) {
    banner(`Solved in imagination at decision ${record.step}`);
    tell(`Solved at decision ${record.step}. Going on is possible.`);
    if (!record.over) setPaused(true, true);
  } else if (record.over) {
    const solved = past.some((one) => one.solved);
    banner(solved ? "Over; it was solved" : "Over; it was not solved");
    tell("The episode is over. Reset begins another one.");
  } else if (before && before.driver !== record.driver) {
    tell(record.driver === "person" ? "You drive." : `${record.driver} drives.`);
  }
  if (record.over && !get("banner").textContent.startsWith("Over")) tell("The episode is over.");
}

function drawFigures() {
  get("success").textContent = moment.success.toFixed(2);
  get("doubt").textContent = moment.uncertainty.toFixed(2);
  get("count").textContent = `${moment.step} of ${moment.horizon}`;
  get("driver").textContent = moment.driver || "nobody yet";
  get("grip-name").textContent = gripper < 0 ? "close gripper" : "open gripper";
  get("grip").setAttribute("aria-pressed", String(gripper > 0));
  get("horizon").textContent = moment.horizon;
  get("chart").setAttribute("viewBox", `0 0 ${moment.horizon} 1`);
  get("threshold").setAttribute("x2", moment.horizon);
  const line = (value) => past.map((one) => `${one.step},${1 - value(one)}`).join(" ");
  get("success-line").setAttribute("points", line((one) => one.success));
  get("doubt-line").setAttribute("points", line((one) => one.uncertainty));
  get("chart").setAttribute("aria-label",
    `Success probability ${moment.success.toFixed(2)}, uncertainty ${moment.uncertainty.toFixed(2)}, ` +
    `after ${moment.step} of ${moment.horizon} decisions`);
  document.querySelectorAll(".state-row").forEach((row, i) => {
    const values = past.map((one) => one.state[i]);
    const low = Math.min(...values), span = Math.max(Math.max(...values) - low, 1e-3);
    row.querySelector("output").textContent = moment.state[i].toFixed(3);
    const svg = row.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${moment.horizon} 1`);
    svg.firstChild.setAttribute("points",
      values.map((value, t) => `${t},${0.92 - 0.84 * (value - low) / span}`).join(" "));
  });
}

function makeStateRows() {
  const names = world.state_size === 4 ? ["hand x", "hand y", "hand z", "gripper"] : [];
  const rows = [];
  for (let i = 0; i < Math.min(world.state_size, 8); i++) {
    const row = Object.assign(document.createElement("div"), { className: "state-row" });
    const name = names[i] || `state ${i + 1}`;
    row.innerHTML = `<span>${name}</span><svg preserveAspectRatio="none" role="img" ` +
      `aria-label="${name} against decisions"><polyline class="state"></polyline></svg><output>–</output>`;
    rows.push(row);
  }
  get("states").replaceChildren(...rows);
  get("state-title").hidden = !rows.length;
}

function banner(text) { get("banner").textContent = text; get("banner").hidden = !text; }
function tell(text) { get("status").textContent = text; }

function download(record, body) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([body], { type: record.type }));
  link.download = record.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  tell(`Saved ${record.name}.`);
}

// ---- driving --------------------------------------------------------------------------------

function driving() { return Boolean(world.policy && get("auto").checked); }

function readPad() {
  const pad = [...(navigator.getGamepads ? navigator.getGamepads() : [])].find((one) => one);
  get("pad-name").textContent = pad ? `Connected: ${pad.id}.` : "None is connected.";
  if (!pad) { padButtons = []; return [0, 0, 0]; }
  const pressed = pad.buttons.map((button) => button.pressed);
  const fresh = (i) => pressed[i] && !padButtons[i];
  if (fresh(0)) press(" ");
  if (!pressed[0] && padButtons[0]) held.delete(" ");
  if (fresh(8)) begin(null);
  if (fresh(9)) setPaused(!paused);
  padButtons = pressed;
  const axis = (i) => Math.abs(pad.axes[i] || 0) > DEAD_ZONE ? pad.axes[i] : 0;
  return [axis(0), -axis(1), -axis(3)];
}

function press(key) {
  if (!held.has(key) && key === " ") gripper = -gripper;
  held.add(key);
  tapped.add(key);
  if (moment) drawFigures();
}

function action(stick) {
  const down = (key) => Number(held.has(key) || tapped.has(key));
  const clip = (value) => Math.max(-1, Math.min(1, value));
  const right = down("ArrowRight") - down("ArrowLeft") + stick[0];
  const up = down("ArrowUp") - down("ArrowDown") + stick[1];
  const values = new Array(world.action_size).fill(0);
  // The camera of the embedded model looks along the diagonal between -x and +y.
  const turned = get("axes").value === "picture" ? [right - up, right + up] : [right, up];
  turned.forEach((value, i) => { if (i < values.length) values[i] = clip(value); });
  if (values.length > 2) values[2] = clip(down("PageUp") - down("PageDown") + stick[2]);
  if (values.length > 3) values[3] = gripper;
  return values;
}

function tick(now) {
  requestAnimationFrame(tick);
  if (!world) return;
  const stick = readPad();
  for (const button of document.querySelectorAll("[data-key]"))
    button.classList.toggle("held", held.has(button.dataset.key));
  showRate(now);
  const acting = held.size > 0 || tapped.size > 0 || stick.some((value) => value);
  if (!moment || waiting || moment.over) return;
  if (paused && !single) return;
  if (!single && !acting && !driving() && get("time").value === "keys") return;
  if (!single && now - lastAsked < 1000 / Number(get("speed").value) - 4) return;
  lastAsked = now;
  waiting = true;
  single = false;
  send({ do: "step", action: driving() && !acting ? null : action(stick) });
  tapped.clear();
}

function showRate(now) {
  while (arrivals.length && now - arrivals[0] > 2000) arrivals.shift();
  if (arrivals.length < 2) return;
  const rate = 1000 * (arrivals.length - 1) / (arrivals[arrivals.length - 1] - arrivals[0]);
  get("rate").textContent =
    `${rate.toFixed(1)} frames a second, ${(1000 * moment.seconds).toFixed(0)} ms to imagine one`;
}

function setPaused(value, quiet) {
  paused = value;
  get("pause").setAttribute("aria-pressed", String(paused));
  get("pause").textContent = paused ? "Go on" : "Pause";
  if (world && moment && !quiet && paused) tell("Paused.");
  if (!paused && moment && moment.step && !moment.over) banner("");
}

function isControl(target) { return target.closest("select, input, textarea"); }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || isControl(event.target)) return;
  if (event.key === " " && event.target.closest("button, a")) return;
  if (KEYS.includes(event.key)) {
    event.preventDefault();
    if (!event.repeat) press(event.key);
  }
  if (event.repeat || !world) return;
  if (event.key === "r") begin(null);
  if (event.key === "p") setPaused(!paused);
  if (event.key === "n") single = true;
});
document.addEventListener("keyup", (event) => held.delete(event.key));
window.addEventListener("blur", () => held.clear());

for (const button of document.querySelectorAll("[data-key]")) {
  const { key } = button.dataset;
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    press(key);
  });
  for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, () => held.delete(key));
  button.addEventListener("click", (event) => {  // by keyboard or a screen reader
    if (!event.detail) { press(key); held.delete(key); }
  });
}
const guarded = (act) => () => { if (world) act(); };
get("reset").addEventListener("click", guarded(() => begin(null)));
get("pause").addEventListener("click", guarded(() => setPaused(!paused)));
get("step").addEventListener("click", guarded(() => { setPaused(true, true); single = true; }));
for (const button of document.querySelectorAll("[data-save]"))
  button.addEventListener("click", guarded(() => {
    tell("Saving.");
    send({ do: "save", as: button.dataset.save });
  }));
connect();
requestAnimationFrame(tick);
