"use strict";
// Names come from strangers, so all text is set as text (textContent), never as markup.
const $ = (id) => document.getElementById(id);
const MARK = { ok: "✔", live: "✔", failing: "✗", failed: "✗", halted: "!", reverted: "!", stuck: "!", held: "!", retrying: "…", due: "…",
  rolling: "…", new: "…", off: "–", superseded: "–", gone: "–", bad: "✗" };
const WORD = { ok: "ok", failing: "failing", halted: "halted", reverted: "reverted", retrying: "being tried again", new: "not filled yet" };
const TONE = { ok: "good-text", live: "good-text", failing: "bad-text", failed: "bad-text", bad: "bad-text",
  halted: "warn-text", reverted: "warn-text", stuck: "warn-text", held: "warn-text", retrying: "warn-text" };
const CAUSE = { event: "event", poll: "poller", replica: "another replica" };
const FOUND = { event: "received", poll: "found by the poller", replica: "seen: another replica has applied it" };
const state = { status: null, page: null, offset: 0, detail: null, lost: 0, skew: 0, said: "" };

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== ""));
  return made;
}
function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
// Fills a box, and keeps the keyboard's focus on the element that has the same name (data-key).
function fill(box, ...children) {
  const active = document.activeElement;
  const key = box.contains(active) ? active.dataset.key : null;
  box.replaceChildren(...children.flat().filter(Boolean));
  if (key) box.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}
const now = () => Date.now() / 1000 + state.skew;
const two = (number) => String(number).padStart(2, "0");
function clock(seconds, withDate) {
  const at = new Date(seconds * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const today = new Date().toDateString() === at.toDateString();
  return el("time", { datetime: at.toISOString(), title: at.toISOString(), class: "time" },
    withDate && !today ? `${day} ${time}` : time);
}
function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;
}
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const short = (version) => version.split(", ").map((each) => each.slice(0, 8)).join(", ");
const link = (namespace, name) => el("a", { "data-key": `${namespace}/${name}`,
  href: `#/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}` }, `${namespace}/${name}`);
const mark = (name, text) => el("span", { class: TONE[name] }, el("span", { "aria-hidden": "true" }, `${MARK[name]} `), text);
const code = (text) => el("code", {}, text);
const empty = (text) => el("p", { class: "empty" }, text);
function say(text) {
  if (text !== state.said) $("live").textContent = state.said = text;
}
async function load(path) {
  const reply = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(body.error || `the receiver answered ${reply.status}`);
  return body;
}

// --- the first screen

function showStatus(status) {
  const before = state.status?.replica, { name, release, startedAt } = status.replica;
  state.status = status;
  state.skew = status.now - Date.now() / 1000;
  if (before && before.startedAt !== startedAt) {
    notice((before.name === name ? "The receiver has restarted, so its list of rotations begins again. "
      : `This is another replica now, ${name}. It has a list of rotations of its own. `) +
      "Nothing is lost: bindings and rollouts are read from the cluster." +
      (before.release === release ? "" : ` Its release is ${release}: reload the page.`));
    say($("notice").textContent);
    loadBindings();
    loadDetail(true);
  }
  $("release").textContent = release;
  $("replica").textContent = name;
  $("since").replaceChildren(", since ", clock(startedAt, true));
  fill($("health"), status.health.map((each) => el("li", { class: each.state },
    el("b", {}, each.title), mark(each.state, each.text))));
  const c = status.counts, p = status.propagation;
  const fact = (title, value, tone) => el("div", {}, el("dt", {}, title), el("dd", { class: tone }, String(value)));
  fill($("counts"), fact("bindings", c.bindings), fact("ok", c.ok),
    fact("need somebody", c.needSomebody + c.stuckRollouts, c.needSomebody + c.stuckRollouts ? "bad-text" : null),
    fact("being tried", c.retrying + c.new), fact("rotations here", c.rotations),
    fact("to live pods, p95", p.count ? span(p.p95) : "–"));
  showNow();
  showAttention(status);
  showRotations();
}
function showNow() {
  const open = state.status.rotations.filter((each) => each.open);
  fill($("now"), open.length ? open.slice(0, 12).map(running) : empty("No rotation is running."),
    open.length > 12 ? empty(`and ${open.length - 12} more`) : null);
}
const began = (rotation) => rotation.toldAt === null ? rotation.receivedAt : Math.min(rotation.toldAt, rotation.receivedAt);
function running(rotation) {
  const start = began(rotation);
  const since = (at, words) => at === null ? null : el("li", {}, `${words} ${span(at - start)}`);
  const rolls = rotation.fills.flatMap((each) => each.consumers);
  const errors = rotation.fills.filter((each) => each.error);
  return el("div", { class: "box" },
    el("div", { class: "bar" },
      el("div", {}, el("b", {}, rotation.secret), " → ", el("span", { class: "mono" }, short(rotation.version) || "new version")),
      el("span", { class: "time", "data-since": start }, span(now() - start))),
    el("ol", { class: "flow" },
      since(rotation.receivedAt, CAUSE[rotation.cause]),
      since(rotation.appliedAt, count(rotation.fills.filter((each) => each.changed).length, "Secret")),
      rolls.length ? el("li", {}, `${count(rolls.length, "workload")} restarted`) : null,
      rotation.fills.some((each) => each.doneAt === null) ? el("li", {}, "being applied …") : null),
    rolls.length ? el("ul", { class: "rolls" }, rolls.slice(0, 20).map(roll)) : null,
    errors.length ? el("p", {}, errors.slice(0, 5).map((each) => el("span", {},
      link(each.namespace, each.name), ` ${each.reason}: ${each.error} `))) : null);
}
function pods(each) {
  if (each.state === "live") return `live after ${span(each.liveAt - each.markedAt)}`;
  if (each.state === "held") return each.note;
  if (each.state === "failed") return `goes no further: ${each.note || "see its pods"}`;
  if (each.state === "superseded") return "a later change has taken its place";
  if (each.state === "gone") return "no longer reads the Secret, or the Secret is gone";
  return `${Math.min(each.updated, each.ready)} of ${count(each.wanted, "pod")}`;
}
function roll(each) {
  const name = `${each.kind} ${each.name}`;
  const done = Math.min(each.updated, each.ready);
  return el("li", {}, el("span", {}, mark(each.state, name)),
    each.state === "rolling" || each.state === "live"
      ? el("progress", { max: Math.max(1, each.wanted), value: done, "aria-label": `pods of ${name}` }) : el("span", {}),
    el("span", { class: "say" }, pods(each)));
}
function showAttention(status) {
  const rows = status.attention.map((each) => el("li", { class: each.state },
    el("div", { class: "top" }, mark(each.state, ""), link(each.namespace, each.name), el("b", {}, each.reason),
      el("span", { class: "age", "data-since": each.since }, span(now() - each.since))),
    el("p", {}, each.text)));
  fill($("attention"), rows.length ? el("ul", { class: "rows" }, rows) : empty("Nothing. Every binding is as it should be."),
    status.moreAttention ? empty(`and ${status.moreAttention} more: see the bindings with trouble below`) : null);
}
function showRotations() {
  const text = $("r-filter").value.trim(), polls = $("r-poll").checked;
  const fits = (each) => (!polls || each.cause === "poll") && (!text || each.secret.includes(text) ||
    each.fills.some((one) => `${one.namespace}/${one.name}`.includes(text)));
  const shown = state.status.rotations.filter(fits);
  plot(shown);
  if (!shown.length) {
    const why = state.status.rotations.length ? "No rotation fits the filter." : "None since this replica started.";
    fill($("rotations"), empty(why));
    return;
  }
  const body = shown.map((each) => {
    const changed = each.fills.filter((one) => one.changed), wrong = each.fills.filter((one) => one.error);
    const rolls = Object.values(each.rollouts).reduce((sum, one) => sum + one, 0), first = each.fills[0];
    const secrets = each.fills.length;
    const result = wrong.length ? mark("failing", `${count(wrong.length, "Secret")} failed`)
      : each.liveAt !== null ? mark("live", `live after ${span(each.liveAt - began(each))}`)
      : each.open ? mark("rolling", "running")
      : each.rollouts.failed ? mark("failed", "stuck")
      : each.rollouts.held ? mark("held", "partly")
      : each.appliedAt !== null ? mark("ok", `applied after ${span(each.appliedAt - began(each))}`)
      : each.outcome || "–";
    return el("tr", {}, el("td", {}, clock(began(each), true)),
      el("th", { scope: "row" }, first ? el("a", { href: link(first.namespace, first.name).getAttribute("href"),
        "data-key": each.id }, each.secret) : each.secret, each.label ? ` (${each.label})` : ""),
      el("td", { class: "mono wide" }, short(each.version)),
      el("td", { class: "wide" }, CAUSE[each.cause] + (each.attempts > 1 ? `, ${each.attempts} tries` : "")),
      el("td", { class: "wide" }, `${changed.length} of ${each.hasMore ? `${secrets}+ Secrets` : count(secrets, "Secret")}`),
      el("td", { class: "wide" }, rolls ? count(rolls, "workload") : "–"),
      el("td", {}, result));
  });
  const heads = [["when"], ["AWS secret"], ["version", "wide"], ["by", "wide"], ["written", "wide"],
    ["restarted", "wide"], ["result"]];
  fill($("rotations"), el("table", {}, el("caption", { class: "hidden" }, "Rotations, the newest first"),
    el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
    el("tbody", {}, body)));
}
function plot(rotations) {
  const points = rotations.filter((each) => each.liveAt !== null && each.toldAt !== null)
    .map((each) => ({ at: each.toldAt, seconds: Math.max(0, each.liveAt - each.toldAt), each })).reverse();
  $("plot").hidden = points.length < 2;
  if (points.length < 2) return;
  const sorted = points.map((each) => each.seconds).sort((a, b) => a - b);
  const top = sorted[sorted.length - 1], middle = sorted[Math.floor(sorted.length / 2)];
  const width = Math.max(280, $("plot").clientWidth - 26), left = 58, right = 12, high = 108, ceiling = Math.max(1, top * 1.15);
  const x = (index) => left + (width - left - right) * (points.length === 1 ? .5 : index / (points.length - 1));
  const y = (seconds) => high - (high - 12) * seconds / ceiling;
  const words = `From label moved to live pods, last ${points.length} rotations: median ${span(middle)}, ` +
    `slowest ${span(top)}.`;
  const line = (at, kind) => svg("line", { x1: left, x2: width - right, y1: y(at), y2: y(at), class: kind });
  const drawing = svg("svg", { viewBox: `0 0 ${width} 130`, role: "img", "aria-label": words },
    line(0, "axis"), line(middle, "mid"));
  points.forEach((each, index) => {
    const dot = svg("ellipse", { cx: x(index), cy: y(each.seconds), rx: 5, ry: 5, class: each.each.cause === "poll" ? "poll" : "dot" });
    const title = svg("title", {});
    title.textContent = `${each.each.secret}: ${span(each.seconds)}`;
    dot.append(title);
    drawing.append(dot);
  });
  drawing.append(svg("text", { x: 0, y: y(0) }, "0 s"), svg("text", { x: 0, y: y(middle) + 4 }, span(middle)));
  fill($("plot"), drawing, el("figcaption", {}, words));
}

// --- the list of bindings

let bindingsTimer = 0, asked = 0;
async function loadBindings() {
  const number = ++asked;
  const query = new URLSearchParams({ q: $("b-filter").value.trim(), failing: $("b-failing").checked ? "1" : "0",
    offset: String(state.offset), limit: "50" });
  try {
    const page = await load(`/v1/bindings?${query}`);
    if (number !== asked) return;  // the search has changed meanwhile
    state.page = page;
    showBindings();
  } catch (error) {
    if (!state.page && number === asked) fill($("bindings"), empty(`The list could not be read: ${error.message}.`));
  }
}
function bindingsSoon(wait) {
  clearTimeout(bindingsTimer);
  bindingsTimer = setTimeout(() => { bindingsTimer = 0; loadBindings(); }, wait);
}
function showBindings() {
  const { total, offset, bindings } = state.page;
  if (!bindings.length && offset) { state.offset = 0; bindingsSoon(0); return; }
  if (!bindings.length) {
    fill($("bindings"), empty($("b-filter").value || $("b-failing").checked ? "No binding fits." :
      "No Secret is bound. Give one the label keyturn.dev/bind: \"true\" (docs/bindings.md)."));
    return;
  }
  const body = bindings.map((each) => el("tr", {}, el("th", { scope: "row" }, link(each.namespace, each.name)),
    el("td", { class: "wide" }, each.secrets.join(", ") || "–"), el("td", { class: "mono wide" }, short(each.version) || "–"),
    el("td", { class: "wide" }, each.changedAt ? clock(each.changedAt, true) : "never"),
    el("td", { class: "num wide" }, String(each.consumers)),
    el("td", {}, mark(each.state, each.reason || WORD[each.state]))));
  const heads = [["Secret"], ["AWS secret", "wide"], ["version", "wide"], ["changed", "wide"], ["workloads", "num wide"],
    ["state"]];
  const button = (text, to, off) => {
    const made = el("button", { type: "button", disabled: off, "data-key": text }, text);
    made.addEventListener("click", () => { state.offset = to; loadBindings(); });
    return made;
  };
  fill($("bindings"), el("table", {}, el("caption", { class: "hidden" }, "Bindings, by name"),
    el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
    el("tbody", {}, body)),
    el("div", { class: "pager" }, button("Previous", Math.max(0, offset - 50), !offset),
      `${offset + 1}-${offset + bindings.length} of ${total}`,
      button("Next", offset + 50, offset + bindings.length >= total)));
}

// --- one binding

let detailTimer = 0;
function place() {
  const [, namespace, name] = location.hash.split("/").map((each) => { try { return decodeURIComponent(each); } catch { return each; } });
  return namespace && name ? { namespace, name } : null;
}
async function open() {
  const at = place();
  $("detail").hidden = !at;
  $("overview").hidden = !!at;
  document.title = (at ? `${at.namespace}/${at.name} – ` : "") + "Keyturn" +
    (state.status?.replica.cluster ? ` – ${state.status.replica.cluster}` : "");
  if (!at) {
    const left = state.detail && `${state.detail.namespace}/${state.detail.name}`;
    state.detail = null;
    // The keyboard goes on where it was.
    if (left) ($("bindings").querySelector(`[data-key="${CSS.escape(left)}"]`) || $("main")).focus();
    return;
  }
  if (state.detail && state.detail.namespace === at.namespace && state.detail.name === at.name) return;
  state.detail = null;
  $("h-detail").textContent = `${at.namespace}/${at.name}`;
  fill($("detail-body"), empty("Reading …"));
  $("h-detail").focus();
  window.scrollTo(0, 0);
  await loadDetail(true);
}
async function loadDetail(withHistory) {
  const at = place();
  if (!at) return;
  try {
    const path = `/v1/bindings/${encodeURIComponent(at.namespace)}/${encodeURIComponent(at.name)}`;
    const found = await load(`${path}?history=${withHistory ? 1 : 0}`), still = place();
    if (still?.namespace !== at.namespace || still.name !== at.name) return;  // another one has been opened meanwhile
    if (!withHistory && state.detail) { found.history = state.detail.history; found.historyError = state.detail.historyError; }
    state.detail = found;
    showDetail(found);
  } catch (error) {
    if (!state.detail) fill($("detail-body"), empty(`${error.message}.`));
  }
}
function showDetail(b) {
  const fact = (title, ...value) => [el("dt", {}, title), el("dd", {}, ...value)];
  const command = (text, why) => {
    const copy = el("button", { type: "button", "aria-label": `Copy ${text}`, "data-key": text }, "Copy");
    copy.addEventListener("click", async () => {
      copy.textContent = await navigator.clipboard.writeText(text).then(() => "Copied", () => "The browser refuses");
      say(copy.textContent);
    });
    return el("li", {}, code(text), el("span", { class: "soft wide" }, why), copy);
  };
  const name = `${b.namespace}/${b.name}`;
  fill($("detail-body"),
    el("div", { class: "box" },
      el("p", {}, mark(b.state, b.reason || WORD[b.state]), b.since ? el("span", { class: "soft" }, ", for ",
        el("span", { "data-since": b.since }, span(now() - b.since))) : null),
      b.text ? el("p", {}, b.text) : null,
      b.intact ? null : el("p", { class: "warn-text" }, "Somebody else has edited what Keyturn wrote; it is being repaired."),
      el("dl", { class: "facts" },
        b.sources.flatMap((each) => fact("AWS secret", el("b", {}, each.secret), each.stage ? ` at ${each.stage}` : "",
          " ", each.versions.length ? el("span", { class: "mono" }, each.versions.join(", ")) : "no version yet")),
        fact("keys", b.keys.length ? b.keys.map((each) => [code(each), " "]).flat() : "",
          b.otherKeys > 0 ? (b.keys.length ? `and ${b.otherKeys} more` : `${count(b.otherKeys, "key")}, all of the AWS secret`) : ""),
        fact("last change", b.changedAt ? clock(b.changedAt, true) : "never filled",
          b.movedAt ? el("span", { class: "soft" }, ", label moved ", clock(b.movedAt, true)) : null),
        b.account ? fact("reads as", `ServiceAccount ${b.account}`) : null)),
    el("h3", {}, "Workloads that read it"),
    b.consumers.length ? el("table", {}, el("caption", { class: "hidden" }, "Workloads"),
      el("thead", {}, el("tr", {}, ["workload", "state", "reads"].map((each, index) =>
        el("th", { scope: "col", class: index === 2 ? "wide" : null }, each)))),
      el("tbody", {}, b.consumers.map((each) => el("tr", {}, el("th", { scope: "row" }, `${each.kind} ${each.name}`),
        el("td", {}, mark(each.state, each.text)), el("td", { class: "wide" }, each.reads)))))
      : empty("No workload reads it by its pod template."),
    b.moreConsumers ? empty(`and ${b.moreConsumers} more`) : null,
    el("h3", {}, "Timeline"),
    b.rotations.length ? timelines(b) : empty("This replica has seen no rotation of it since it started. The last changes below come from the Secret."),
    el("h3", {}, "Last changes"), history(b),
    el("h3", {}, "The same in a terminal"),
    el("ul", { class: "commands" }, command(`keyturn trace ${name}`, "the legs of its last rotation"),
      command(`keyturn explain ${name}`, "what a rotation would restart"),
      command(`kubectl describe secret ${b.name} -n ${b.namespace}`, "its Events")));
}
const unfolded = new Set();  // the folded rotations that somebody has opened, by their id
function timelines(b) {
  const [newest, ...older] = b.rotations.slice(0, 10);
  const fold = (each) => {
    const made = el("details", { class: "box", open: unfolded.has(each.id) }, el("summary", { "data-key": each.id },
      clock(began(each), true), " ", el("span", { class: "mono" }, short(each.version)),
      each.liveAt === null ? "" : `, live after ${span(each.liveAt - began(each))}`), legs(each, b));
    made.addEventListener("toggle", () => made.open ? unfolded.add(each.id) : unfolded.delete(each.id));
    return made;
  };
  return [el("div", { class: "box" }, el("p", {}, clock(began(newest), true), " ", el("b", {}, newest.secret), " → ",
    el("span", { class: "mono" }, short(newest.version)), el("span", { class: "soft" },
      newest.cause === "event" ? ` by event ${newest.id}` : ` by ${newest.cause === "poll" ? "the poller" : "another replica"}`)), legs(newest, b)), older.map(fold)].flat();
}
const exact = (seconds) => seconds < 100 ? `${Math.max(0, seconds).toFixed(2)} s` : span(seconds);
function legs(rotation, b) {
  const start = began(rotation), one = rotation.fills.find((each) => each.namespace === b.namespace && each.name === b.name);
  const rows = [];
  const leg = (at, text, kind) => { if (at !== null && at !== undefined) rows.push({ at, text, kind }); };
  leg(rotation.toldAt, "label moved (AWS tells whole seconds)");
  leg(rotation.receivedAt, FOUND[rotation.cause] + (rotation.attempts > 1 ? `, ${rotation.attempts} tries` : ""));
  if (one) {
    leg(one.fetchedAt, "value read from AWS");
    leg(one.appliedAt, "Secret applied");
    if (one.error) leg(one.doneAt, `${one.reason}: ${one.error}`, "bad");
    for (const each of one.consumers) {
      leg(each.markedAt, `${each.kind} ${each.name} marked`);
      if (each.liveAt !== null) leg(each.liveAt, `${each.kind} ${each.name} live: ${count(each.wanted, "pod")}`);
      else rows.push({ at: Infinity, text: `${each.kind} ${each.name}: ${pods(each)}`, kind: each.state === "failed" ? "bad" : "open" });
    }
  }
  if (rotation.answeredAt) leg(rotation.answeredAt, `answered: ${rotation.outcome}`);
  rows.sort((a, c) => a.at - c.at);
  return el("ol", { class: "legs" }, rows.map((each) => el("li", { class: each.kind },
    el("span", { class: "at" }, each.at === Infinity ? "now" : exact(each.at - start)), el("span", { class: "what" }, each.text))));
}
function history(b) {
  if (b.historyError) return empty(`They could not be read: ${b.historyError}`);
  if (!b.history || !b.history.length) return empty("The Secret has no history yet. It begins with the next change.");
  const seconds = (text) => Date.parse(text) / 1000;
  const heads = [["when"], ["version"], ["before", "wide"], ["by", "wide"], ["keys", "num"], ["restarts", "num wide"]];
  return el("table", {}, el("caption", { class: "hidden" }, "The last changes, the newest first"),
    el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
    el("tbody", {}, b.history.map((each) => el("tr", {}, el("td", {}, clock(seconds(each.at), true)),
      el("td", { class: "mono" }, short(each.version)), el("td", { class: "mono wide" }, short(each.was) || "–"),
      el("td", { class: "wide" }, each.cause || "–"), el("td", { class: "num" }, String(each.keys)),
      el("td", { class: "num wide" }, String(each.due))))));
}

// --- the stream

let source = null, retry = 0, polling = 0;
function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}
function connected(kind, text) {
  const pill = $("connection");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${kind}`;
}
function connect() {
  clearTimeout(retry);
  source = new EventSource("/v1/stream");
  source.addEventListener("snapshot", (event) => {
    if (state.lost) { notice(""); say("connected again"); state.lost = 0; }
    stopPolling();
    connected("ok", "live");
    showStatus(JSON.parse(event.data));
  });
  for (const kind of ["delivery", "applied", "rollout"])
    source.addEventListener(kind, (event) => changed(kind, JSON.parse(event.data)));
  source.onerror = failed;
}
async function failed() {
  source.close();
  clearTimeout(retry);
  retry = setTimeout(connect, polling ? 30000 : 2000);
  try {
    const status = await load("/v1/status");  // it answers: so only the stream was refused
    if (state.lost) { notice(""); state.lost = 0; }
    showStatus(status);
    connected("wait", "refreshed every 5 s");
    if (!polling) {
      notice("Eight pages are open already, so this one is refreshed every 5 seconds. Close one of them for a live view.");
      polling = setInterval(async () => { try { showStatus(await load("/v1/status")); } catch { stopPolling(); } }, 5000);
    }
  } catch {
    stopPolling();
    if (!state.lost) { state.lost = now(); say("The connection is lost. Connecting again."); }
    connected("wait", "reconnecting");
    notice(`No answer since ${clock(state.lost).textContent}; what you see is from then. The page connects again by itself. If keyturn ` +
      "ui or kubectl port-forward has ended, run it again.");
  }
}
function stopPolling() {
  if (polling) notice("");
  clearInterval(polling);
  polling = 0;
}
function changed(kind, rotation) {
  const at = place();
  const ours = at && rotation.fills.some((each) => each.namespace === at.namespace && each.name === at.name);
  if (ours) {
    clearTimeout(detailTimer);
    detailTimer = setTimeout(() => loadDetail(kind === "applied"), 300);
  }
  if (!at && kind === "applied" && !bindingsTimer) bindingsSoon(1000);
  if (kind === "applied") say(`${rotation.secret} applied`);
  if (kind === "rollout" && !rotation.open && rotation.liveAt !== null)
    say(`${rotation.secret} live after ${span(rotation.liveAt - began(rotation))}`);
}
setInterval(() => {
  for (const each of document.querySelectorAll("[data-since]")) {
    const text = span(now() - Number(each.dataset.since));
    if (each.textContent !== text) each.textContent = text;
  }
}, 1000);
$("r-filter").addEventListener("input", () => state.status && showRotations());
$("r-poll").addEventListener("change", () => state.status && showRotations());
$("b-filter").addEventListener("input", () => { state.offset = 0; bindingsSoon(200); });
$("b-failing").addEventListener("change", () => { state.offset = 0; bindingsSoon(0); });
window.addEventListener("hashchange", open);
connect();
loadBindings();
open();
