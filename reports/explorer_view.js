"use strict";
/* The questions of a page to look at: the list, which draws what is in sight, the chosen question, keys and links. */
(() => {
  const { data, items, voters, conditions, outcomes, filters, sorts, chosen, NONE } = explorer;
  const byId = new Map(items.map((item) => [item.id, item]));
  const get = (id) => document.getElementById(id);
  const [list, space, pane, form, count] = ["x-list", "x-space", "x-item", "x-form", "x-count"].map(get);
  const SIGNS = { right: "✓", wrong: "✗", unfinished: "…", unreadable: "?", missing: "–" };
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value;
      else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const said = (tag, text, kind) => make(tag, { dir: "auto", class: kind }, text);
  const narrow = () => matchMedia("(max-width: 900px)").matches;
  let shown = [], current = null;

  /* What stands above the list. */
  const field = (title, control) => get(title === "search" ? "x-first" : "x-more").append(make("label", {}, make("span", {}, title), control));
  const controls = new Map();
  const selector = (key, title, options, first) => {
    const control = make("select", {}, ...(first === undefined ? [] : [make("option", { value: "" }, first)]),
      ...Object.entries(options).map(([value, words]) => make("option", { value }, words)));
    control.addEventListener("change", () => { put(key, control.value); update(); });
    controls.set(key, control);
    field(title, control);
  };
  const put = (key, value) => { if (value) chosen[key] = value; else delete chosen[key]; };
  const search = make("input", { type: "search", placeholder: "question, options, answers, id" });
  let wait = 0;
  search.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(() => { put("text", search.value); update(); }, 120); });
  controls.set("text", search);
  field("search", search);
  for (const filter of filters) selector(filter.key, filter.title, filter.options, "any");
  selector("sort", "sort by", Object.fromEntries(Object.entries(sorts).map(([key, sort]) => [key, sort.title])));
  selector("down", "direction", { "": "ascending", 1: "descending" });
  get("x-more").append(get("x-clear"));
  form.addEventListener("submit", (event) => event.preventDefault());
  get("x-clear").addEventListener("click", () => { for (const key of Object.keys(chosen)) delete chosen[key]; follow(); update(); search.focus(); });
  const follow = () => { for (const [key, control] of controls) control.value = chosen[key] ?? (key === "sort" ? "file" : ""); };

  /* The list: only rows in sight are in the document. */
  const marks = (item) => {
    const box = make("span", { class: "marks" });
    voters.slice(0, 8).forEach((voter, v) => {
      const group = make("span", { class: "of" });
      conditions.forEach((condition, c) => {
        const found = explorer.outcomeOf(item, v, c);
        if (found === NONE) return;
        const name = outcomes[found];
        group.append(make("span", { class: `mark ${name}`, title: `${voter}, ${condition}: ${name}` }, SIGNS[name]));
      });
      box.append(group);
    });
    return box;
  };
  const heard = (item) => voters.map((voter, v) => conditions.map((condition, c) => [condition, explorer.outcomeOf(item, v, c)])
    .filter(([, found]) => found !== NONE).map(([condition, found]) => `${voter} ${condition} ${outcomes[found]}`).join(", ")).join("; ");
  const factsOf = (item) => data.facts.map((fact, number) => [fact.name, fact.values[item.facts[number]]]).filter(([, value]) => value);
  const chip = (name, value) => make("span", { class: `chip ${name === "label" ? value : ""}`, title: name, dir: "auto" }, value);
  const row = (item, place) => {
    const options = { id: `row-${item.place}`, class: "row", role: "option", "aria-posinset": place + 1, "aria-setsize": shown.length };
    options["aria-selected"] = String(item === current);
    const line = make("div", options, said("span", item.question, "asked"),
      make("span", { class: "meta" }, ...factsOf(item).slice(0, 3).map(([name, value]) => chip(name, value)), marks(item)),
      make("span", { class: "hidden" }, heard(item)));
    line.style.transform = `translateY(${place * height}px)`;
    line.addEventListener("click", () => { choose(item); if (narrow()) pane.scrollIntoView(); });
    return line;
  };
  const height = 58;
  const draw = () => {
    const from = Math.max(0, Math.floor(list.scrollTop / height) - 6);
    const to = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + 6);
    space.replaceChildren(...shown.slice(from, to).map((item, place) => row(item, from + place)));
    if (current && get(`row-${current.place}`)) list.setAttribute("aria-activedescendant", `row-${current.place}`);
    else list.removeAttribute("aria-activedescendant");
  };
  const update = () => {
    shown = explorer.select();
    space.style.height = `${shown.length * height}px`;
    list.scrollTop = 0;
    count.textContent = `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} questions`;
    if (current && shown.includes(current)) sight(); else if (shown.length) { show(shown[0]); } else { current = null; empty(); }
    draw();
    remember();
  };
  const sight = () => {
    const top = shown.indexOf(current) * height;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
  };
  const choose = (item) => { show(item); sight(); draw(); remember(item.id); };
  const step = (by) => {
    const place = shown.indexOf(current);
    if (shown.length) choose(shown[Math.min(shown.length - 1, Math.max(0, place + by))]);
  };
  let due = false;
  list.addEventListener("scroll", () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; draw(); }); } });
  addEventListener("resize", draw);

  /* The chosen question. */
  const player = (item) => {
    if (item.clip < 0) return make("p", { class: "quiet" }, "No recording.");
    const clip = data.clips[item.clip];
    if (clip.why) return make("p", { class: "quiet", dir: "auto" }, clip.why);
    const sound = make("audio", { controls: true, preload: "metadata", "aria-label": `Recording of ${item.id}` });
    const put = () => { const block = get(`clip-${item.clip}`); if (block) sound.src = `data:audio/ogg;base64,${block.textContent}`; };
    if (clip.url) sound.src = clip.url;
    else if (get(`clip-${item.clip}`)) put();
    else document.addEventListener("DOMContentLoaded", put);
    const note = make("p", { class: "quiet", role: "status" });
    sound.addEventListener("error", () => { note.textContent = clip.url ? `${clip.url} cannot be played: is it still there?` : "This browser cannot play Opus."; });
    return make("div", {}, sound, note);
  };
  const answers = (item) => {
    const table = make("table", {}, make("caption", { class: "hidden" }, "Answers"),
      make("thead", {}, make("tr", {}, ...["model", "heard", "answer", ""].map((name) => make("th", { scope: "col" }, name)))));
    const body = make("tbody");
    voters.forEach((voter, v) => conditions.forEach((condition, c) => {
      const replies = item.replies.filter((reply) => reply.voter === v && reply.condition === c);
      if (!replies.length) return;
      const name = outcomes[explorer.outcomeOf(item, v, c)], rights = replies.filter((reply) => reply.outcome === 0).length;
      const words = make("td", { class: "text" });
      const alike = new Map();
      for (const reply of replies) {
        const key = JSON.stringify([reply.outcome, reply.picked, reply.text]);
        alike.set(key, [reply, (alike.get(key) || [null, 0])[1] + 1]);
      }
      for (const [reply, times] of alike.values()) {
        const line = make("div", {}, replies.length > 1 ? `${SIGNS[outcomes[reply.outcome]]} ` : null,
          said("span", reply.picked ?? "no option"), times > 1 ? ` × ${times}` : null);
        if (reply.text && reply.text !== reply.picked) line.append(said("q", reply.text, "raw"));
        words.append(line);
      }
      const verdict = replies.length > 1 ? `${rights} of ${replies.length} right` : name;
      body.append(make("tr", {}, said("td", voter), make("td", {}, condition), words,
        make("td", { class: `verdict-of ${name}` }, `${SIGNS[name]} ${verdict}`)));
    }));
    table.append(body);
    return body.children.length ? make("div", { class: "table" }, table) : null;
  };
  const empty = () => pane.replaceChildren(make("p", { class: "quiet" }, "No question fits all filters."));
  const show = (item) => {
    current = item;
    const options = make("ol", { class: "options", type: "A" }, ...item.choices.map((choice, place) =>
      make("li", { class: place === item.answer ? "is-right" : "", dir: "auto" }, choice,
        place === item.answer ? make("span", { class: "tag" }, " right") : null)));
    const numbers = data.numbers.map((name, place) => [name, item.numbers[place]]).filter(([, value]) => typeof value === "number");
    const place = shown.indexOf(item);
    const back = make("button", { type: "button", class: "back" }, "Back to the list");
    back.addEventListener("click", () => { list.focus(); list.scrollIntoView({ block: "center" }); });
    const turn = (words, by, off) => {
      const button = make("button", { type: "button", disabled: off }, words);
      button.addEventListener("click", () => step(by));
      return button;
    };
    pane.replaceChildren(
      make("div", { class: "tools" }, back, turn("Previous", -1, place <= 0), turn("Next", 1, place === shown.length - 1),
        make("a", { href: `#q=${encodeURIComponent(item.id)}` }, "Link to this question")),
      said("h3", item.question), options, player(item),
      ...[item.answer === null ? make("p", { class: "quiet" }, "Its right answer is not known.") : null, answers(item)].filter(Boolean),
      make("dl", {}, ...[["id", item.id], ...factsOf(item), ...numbers.map(([name, value]) => [name, value.toLocaleString("en", { maximumFractionDigits: 3 })])]
        .map(([name, value]) => make("div", {}, make("dt", {}, name), said("dd", value)))));
  };

  /* Links: #q=ID, and the filters by their keys. */
  const remember = (id) => {
    const all = new URLSearchParams({ ...chosen, ...(id ? { q: id } : {}) });
    if (!id && !Object.keys(chosen).length && !location.hash.includes("=")) return;
    try { history.replaceState(null, "", `#${all}`); } catch { /* without a history the page works as well */ }
  };
  const go = () => {
    if (!location.hash.includes("=")) return false;
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(chosen)) delete chosen[key];
    for (const key of controls.keys()) put(key, wanted.get(key));
    const options = (key) => [...controls.get(key).options].map((option) => option.value);
    for (const key of Object.keys(chosen)) if (key !== "text" && !options(key).includes(chosen[key])) delete chosen[key];
    const item = byId.get(wanted.get("q"));
    current = item ?? null;
    follow();
    update();
    if (item) {
      show(item);
      list.scrollTop = (shown.indexOf(item) + 0.5) * height - list.clientHeight / 2;
      draw();
      remember(item.id);
    }
    else if (wanted.get("q")) { empty(); pane.firstChild.textContent = `There is no question ${wanted.get("q")} on this page.`; }
    (item && narrow() ? pane : get("questions")).scrollIntoView();
    return true;
  };
  addEventListener("hashchange", go);

  /* Keys. */
  const MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };
  list.addEventListener("keydown", (event) => {
    if (event.key in MOVES) { event.preventDefault(); step(MOVES[event.key]); }
    else if (event.key === "Enter") { pane.focus(); if (narrow()) pane.scrollIntoView(); }
  });
  pane.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, audio")) return;
    const sound = pane.querySelector("audio");
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
    else if (event.key === "p" && sound) { if (sound.paused) sound.play(); else sound.pause(); }
  });
  get("x-fold").open = !narrow();
  const asked = voters.slice(0, 8).join(", ");
  if (asked) get("x-order").textContent = `Marks of ${asked}${voters.length > 8 ? " and more" : ""}; of each: ${conditions.join(", ")}.`;
  follow();
  if (!go()) update();
})();
