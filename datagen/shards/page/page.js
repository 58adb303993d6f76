// Draws the page from data/*.js. Everything from the shards enters the document as text or attribute, never as markup.
"use strict";

const ltPage = (() => {
  const PER_PAGE = 60, REJECTS_PER_STEP = 500;
  const $ = (id) => document.getElementById(id);
  const chunks = new Map(), waiting = new Map();
  let info = null, found = [], page = 0, current = -1, rejectRows = null, rejectsShown = 0, reasonFilter = null;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function table(columns, rows) {
    const numeric = columns.map((_, i) => rows.length > 0 && rows.every((row) => typeof row[i] === "number"));
    const cell = (tag, value, i) => element(tag, numeric[i] ? { class: "number" } : {}, value instanceof Node ? value : shown(value));
    const head = element("tr", {}, ...columns.map((name, i) => cell("th", name, i)));
    for (const th of head.children) th.setAttribute("scope", "col");
    const body = rows.map((row) => element("tr", {}, ...row.map((value, i) => cell("td", value, i))));
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  }

  function shown(value) {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4);
    return String(value);
  }

  function loadScript(path) {
    document.head.append(element("script", { src: path }));
  }

  function withChunk(number, use) {
    if (chunks.has(number)) return use(chunks.get(number));
    if (!waiting.has(number)) loadScript(`data/samples-${String(number).padStart(4, "0")}.js`);
    waiting.set(number, use);
  }

  // ---------------------------------------------------------------- the grid

  function search() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [];
    info.samples.forEach((texts, i) => {
      const text = texts.slice(0, 3).join(" ").toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(i);
    });
    page = 0;
    drawGrid();
  }

  function card(i) {
    const [key, en, zh, path] = info.samples[i];
    const text = element("span", { class: "text" }, element("span", { class: "en" }, en));
    if (zh) text.append(element("span", { class: "zh", lang: "zh" }, zh));
    text.append(element("span", { class: "key" }, key));
    const image = element("img", { src: `${path}-thumb.webp`, alt: en || zh || key, loading: "lazy" });
    return element("li", {}, element("a", { href: `#sample-${i}` }, image, text));
  }

  function drawGrid() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("grid").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
    $("page-number").textContent = `Page ${page + 1} of ${pages}`;
    for (const id of ["first", "previous"]) $(id).disabled = page === 0;
    for (const id of ["next", "last"]) $(id).disabled = page === pages - 1;
    $("status").textContent = found.length === info.samples.length
      ? `${shown(found.length)} samples` : `${shown(found.length)} of ${shown(info.samples.length)} samples match`;
  }

  function turn(to) {
    page = to;
    drawGrid();
    scrollTo(0, 0);
  }

  // ---------------------------------------------------------------- one sample

  function drawSample(entry) {
    $("sample-key").textContent = entry.key;
    drawCaptions(entry);
    drawEdit(entry);
    drawStage(entry);
    drawSwitches(entry);
    const steps = entry.lineage.map((step) => [step.stage, step.params, step.code, rest(step)]);
    $("lineage").replaceChildren(...(steps.length ? [element("h2", {}, "Lineage"), table(["stage", "settings", "code", ""], steps)] : []));
    $("fields").textContent = `${entry.size[0]} × ${entry.size[1]} pixels · ${entry.fields.join(" ")}`;
    $("meta").textContent = JSON.stringify(entry.meta, null, 1);
    $("sample-key").focus();
  }

  function rest(step) {
    return Object.entries(step).filter(([name]) => !["stage", "params", "code"].includes(name)).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
  }

  function drawCaptions(entry) {
    const texts = Object.entries(entry.captions).flatMap(([lang, said]) => said.map((text) => [lang, text]));
    $("captions").replaceChildren(...texts.map(([lang, text]) =>
      element("p", { lang }, element("span", { class: "lang" }, lang), text)));
  }

  function layerName(entry, suffix) {
    const match = /^-layer-(\d+)$/.exec(suffix);
    if (!match) return suffix.slice(1);
    const layer = entry.layers[Number(match[1])] || {};
    const caption = layer.caption && typeof layer.caption === "object" ? Object.values(layer.caption).join(" · ") : layer.caption;
    return String(caption || layer.category || suffix.slice(1));
  }

  const isLayer = (suffix) => suffix === "-background" || suffix.startsWith("-layer-");

  function drawStage(entry) {
    const stage = $("stage");
    stage.className = "";
    const ratio = entry.size[0] / entry.size[1];
    stage.style.aspectRatio = String(ratio);
    stage.style.width = `min(100%, ${(74 * ratio).toFixed(2)}vh)`; // a tall picture fits the window too
    const whole = element("img", { src: `${entry.image}.webp`, alt: info.samples[current][1] || entry.key, "data-view": "" });
    const views = entry.views.map((suffix) => {
      const image = element("img", { src: `${entry.image}${suffix}.webp`, alt: layerName(entry, suffix), "data-view": suffix });
      image.hidden = true;
      return image;
    });
    stage.replaceChildren(whole, ...views, drawBoxes(entry));
  }

  function drawBoxes(entry) {
    const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", `0 0 ${entry.size[0]} ${entry.size[1]}`);
    svg.setAttribute("aria-hidden", "true");
    svg.hidden = true;
    const fontSize = Math.max(...entry.size) / 40;
    for (const [label, x, y, width, height] of entry.boxes) {
      const rect = document.createElementNS(ns, "rect"), text = document.createElementNS(ns, "text");
      for (const [name, value] of Object.entries({ x, y, width, height })) rect.setAttribute(name, value);
      for (const [name, value] of Object.entries({ x: x + fontSize / 3, y: y + fontSize * 1.1, "font-size": fontSize })) text.setAttribute(name, value);
      text.textContent = label;
      svg.append(rect, text);
    }
    svg.toggleAttribute("hidden", true);
    return svg;
  }

  function drawEdit(entry) {
    const parts = entry.views.includes("-source") ? ["-source", "-mask", ""] : [];
    const scores = Object.entries(entry.meta?.edit?.scores ?? {}).map(([name, score]) => ` · ${name} ${Number(score).toPrecision(3)}`).join("");
    $("edit").replaceChildren(...parts.map((suffix) => {
      const name = suffix.slice(1) || "result";
      return element("figure", {}, element("img", { src: `${entry.image}${suffix}.webp`, alt: name }), element("figcaption", {}, name + (suffix ? "" : scores)));
    }));
  }

  function drawSwitches(entry) {
    const layers = entry.views.filter(isLayer), extras = entry.views.filter((suffix) => !isLayer(suffix));
    const parts = [];
    if (layers.length) {
      const box = element("fieldset", {}, element("legend", {}, "Layers, topmost first"));
      for (const suffix of [...layers].reverse()) box.append(layerSwitch(entry, suffix));
      parts.push(box);
    }
    const buttons = element("div", { class: "buttons" });
    if (layers.length) buttons.append(button("exploded", "Exploded view (E)", () => explode(entry)), button("whole", "Picture", () => showWhole(entry)));
    if (entry.boxes.length) buttons.append(button("boxes", "Boxes (B)", toggleBoxes));
    for (const suffix of extras) buttons.append(button(`extra${suffix}`, suffix.slice(1), () => showOnly(suffix)));
    parts.push(buttons);
    $("switches").replaceChildren(...parts);
  }

  function layerSwitch(entry, suffix) {
    const box = element("input", { type: "checkbox", "data-switch": suffix });
    box.checked = true;
    box.addEventListener("change", () => showLayers(entry));
    const place = suffix.replace("-layer-", "").replace("-", "");
    return element("label", {}, box, element("span", { class: "swatch" }, place), layerName(entry, suffix));
  }

  function button(id, text, act) {
    const made = element("button", { type: "button", id: `do-${id}`, "aria-pressed": "false" }, text);
    made.addEventListener("click", act);
    return made;
  }

  const images = () => [...$("stage").querySelectorAll("img")];

  function showLayers() {
    const wanted = new Set([...document.querySelectorAll("[data-switch]:checked")].map((box) => box.dataset.switch));
    for (const image of images()) image.hidden = !wanted.has(image.dataset.view);
  }

  function showOnly(view) {
    flatten();
    for (const image of images()) image.hidden = image.dataset.view !== view;
  }

  function showWhole() {
    for (const box of document.querySelectorAll("[data-switch]")) box.checked = true;
    showOnly("");
  }

  function explode(entry) {
    const stage = $("stage");
    if (stage.classList.contains("exploded")) return showWhole();
    showLayers();
    stage.classList.add("exploded");
    $("do-exploded").setAttribute("aria-pressed", "true");
    const layers = images().filter((image) => isLayer(image.dataset.view));
    const gap = Math.min(150, 480 / Math.max(1, layers.length - 1));
    layers.forEach((image, i) => { image.style.transform = `translateZ(${(i - (layers.length - 1) / 2) * gap}px)`; });
  }

  function flatten() {
    $("stage").classList.remove("exploded");
    if ($("do-exploded")) $("do-exploded").setAttribute("aria-pressed", "false");
    for (const image of images()) image.style.transform = "";
  }

  function toggleBoxes() {
    const svg = $("stage").querySelector("svg"), on = svg.hasAttribute("hidden");
    svg.toggleAttribute("hidden", !on);
    $("do-boxes").setAttribute("aria-pressed", String(on));
  }

  function openSample(i) {
    current = i;
    const place = found.indexOf(i);
    $("sample-previous").disabled = place <= 0;
    $("sample-next").disabled = place < 0 || place === found.length - 1;
    withChunk(Math.floor(i / info.chunk), (entries) => { if (current === i) drawSample(entries[i % info.chunk]); });
  }

  function step(by) {
    const place = found.indexOf(current) + by;
    if (place >= 0 && place < found.length) location.hash = `#sample-${found[place]}`;
  }

  // ---------------------------------------------------------------- rejects and stages

  function drawReasons() {
    const rows = info.reasons.map(([stage, reason, count]) => {
      const link = element("button", { type: "button" }, reason);
      link.addEventListener("click", () => { reasonFilter = reasonFilter === reason ? null : reason; rejectsShown = 0; drawRejects(); });
      return [link, stage, count];
    });
    $("reasons").replaceChildren(rows.length ? table(["reason", "stage", "samples"], rows) : element("p", {}, "Nothing was rejected."));
    if (!rejectRows) loadScript("data/rejects.js"); else drawRejects();
  }

  function drawRejects() {
    const rows = rejectRows.filter((row) => !reasonFilter || row[2] === reasonFilter);
    rejectsShown = Math.min(rows.length, rejectsShown + REJECTS_PER_STEP);
    $("reject-heading").textContent = reasonFilter ? `Rejected samples: ${reasonFilter}` : "Rejected samples";
    $("reject-list").replaceChildren(table(["key", "stage", "reason", "figure", "detail"], rows.slice(0, rejectsShown)));
    $("more-rejects").hidden = rejectsShown >= rows.length;
  }

  function drawStages() {
    const rows = info.stages.map((stage) => [stage.name, stage.kept, Object.values(stage.rejected).reduce((a, b) => a + b, 0), stage.seconds, stage.model_seconds]);
    $("stage-table").replaceChildren(rows.length ? table(["stage", "kept", "rejected", "seconds", "of these in models"], rows) : element("p", {}, "These shards carry no manifest."));
    $("licences").textContent = info.licences.length ? `Licences of the sources: ${info.licences.join("; ")}` : "";
  }

  // ---------------------------------------------------------------- which view

  function route() {
    const hash = location.hash.slice(1), sample = /^sample-(\d+)$/.exec(hash);
    const view = sample && info.samples[Number(sample[1])] ? "sample" : ["rejects", "stages"].includes(hash) ? hash : "grid";
    for (const name of ["grid", "sample", "rejects", "stages"]) $(`${name}-view`).hidden = name !== view;
    for (const name of ["samples", "rejects", "stages"]) {
      const isHere = name === (view === "grid" || view === "sample" ? "samples" : view);
      if (isHere) $(`tab-${name}`).setAttribute("aria-current", "page"); else $(`tab-${name}`).removeAttribute("aria-current");
    }
    if (view === "grid") backToGrid();
    if (view === "sample") openSample(Number(sample[1]));
    if (view === "rejects") drawReasons();
    if (view === "stages") drawStages();
  }

  function backToGrid() {
    const place = found.indexOf(current);
    if (place >= 0) page = Math.floor(place / PER_PAGE);
    drawGrid();
    const link = document.querySelector(`#grid a[href="#sample-${current}"]`);
    if (link) link.focus();
    current = -1;
  }

  function onKey(event) {
    if (event.target.matches("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
    if ($("sample-view").hidden) return;
    const press = (id) => $(id) && $(id).click();
    const actions = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: () => { location.hash = "#samples"; }, e: () => press("do-exploded"), b: () => press("do-boxes") };
    const act = actions[event.key] || actions[event.key.toLowerCase()];
    if (act) act();
  }

  function setTheme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").setAttribute("aria-pressed", String(dark));
  }

  function start() {
    document.title = `${info.title} – lt shards`;
    $("title").textContent = info.title;
    const shownOf = info.samples.length < info.total ? `${shown(info.samples.length)} of ${shown(info.total)} samples shown` : `${shown(info.total)} samples`;
    $("about").textContent = [info.pipeline, shownOf, info.complete ? "" : "run not finished"].filter(Boolean).join(" · ");
    $("tab-rejects").textContent = `Rejects (${shown(info.reasons.reduce((sum, row) => sum + row[2], 0))})`;
    setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
    const last = () => Math.ceil(found.length / PER_PAGE) - 1;
    const clicks = {
      first: () => turn(0), previous: () => turn(page - 1), next: () => turn(page + 1), last: () => turn(last()),
      "sample-previous": () => step(-1), "sample-next": () => step(1), "more-rejects": drawRejects,
      theme: () => setTheme(document.documentElement.dataset.theme !== "dark"),
    };
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    $("search").addEventListener("input", () => {
      current = -1;
      search();
      if ($("grid-view").hidden) location.hash = "#samples";
    });
    $("search-form").addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", onKey);
    addEventListener("hashchange", route);
    found = info.samples.map((_, i) => i);
    route();
  }

  return {
    index(value) { info = value; start(); },
    chunk([number, entries]) {
      chunks.set(number, entries);
      const use = waiting.get(number);
      waiting.delete(number);
      if (use) use(entries);
    },
    rejects(value) { rejectRows = value; rejectsShown = 0; drawRejects(); },
  };
})();
