"use strict";
/* The questions of a page: what is kept of each, which of them are shown, and in which order. */
const explorer = (() => {
  const data = JSON.parse(document.getElementById("questions-data").textContent);
  const { voters, conditions, outcomes, compare } = data;
  const ASKED = voters.length * conditions.length, NONE = 9;
  const NOT_RIGHT = ["wrong", "unfinished", "unreadable", "missing"];

  const items = data.items.map(([id, question, choices, answer, facts, numbers, clip, replies], place) => ({
    place, id, question, choices, answer, facts, numbers, clip,
    replies: replies.map(([voter, condition, rotation, outcome, pick, text]) => {
      const picked = typeof pick === "number" ? (pick < 0 ? null : choices[pick]) : pick;
      return { voter, condition, rotation, outcome, picked, text: text === 0 ? picked ?? "" : text };
    }),
  }));

  /* For every question, model and condition: the share of right answers, and the outcome that most answers had. */
  const right = new Float32Array(items.length * ASKED).fill(NaN);
  const most = new Uint8Array(items.length * ASKED).fill(NONE);
  const counts = new Float32Array(outcomes.length);
  for (const item of items) {
    const of = new Map();
    for (const reply of item.replies) {
      const cell = reply.voter * conditions.length + reply.condition;
      if (!of.has(cell)) of.set(cell, []);
      of.get(cell).push(reply.outcome);
    }
    for (const [cell, found] of of) {
      counts.fill(0);
      for (const outcome of found) counts[outcome] += 1;
      const share = counts[0] / found.length;
      right[item.place * ASKED + cell] = share;
      let best = 1;
      for (let k = 2; k < counts.length; k += 1) if (counts[k] > counts[best]) best = k;
      most[item.place * ASKED + cell] = share > 0.5 ? 0 : best;
    }
  }
  const cell = (item, voter, condition) => item.place * ASKED + voter * conditions.length + condition;
  const outcomeOf = (item, voter, condition) => most[cell(item, voter, condition)];
  const shareOf = (item, voter, condition) => right[cell(item, voter, condition)];

  const audio = conditions.indexOf("audio");
  const quiet = conditions.findIndex((name) => name.startsWith("silence"));
  const silent = quiet >= 0 ? quiet : conditions.indexOf("none");
  const both = audio >= 0 && silent >= 0;

  /* heard: right with the audio alone; both: right either way; hurts: right without it alone; neither: never. */
  const stateOf = (item, voter) => {
    const a = outcomeOf(item, voter, audio), s = outcomeOf(item, voter, silent);
    if (a === NONE || s === NONE) return "";
    return a === 0 ? (s === 0 ? "both" : "heard") : s === 0 ? "hurts" : "neither";
  };
  const states = both
    ? { heard: "right with audio alone", both: "right both ways", hurts: "right in silence alone", neither: "never right" }
    : {};
  const changes = {};
  if (audio >= 0) {
    compare.forEach(([before, after], pair) => {
      const name = `${voters[before]} to ${voters[after]}`;
      changes[`${pair}.gained`] = `${name}: gained with audio`;
      changes[`${pair}.lost`] = `${name}: lost with audio`;
      if (!both) return;
      for (const from of ["both", "heard", "hurts", "neither"]) {
        for (const to of ["heard", "both", "hurts", "neither"]) {
          if (from !== to) changes[`${pair}.${from}.${to}`] = `${name}: ${states[from]}, then ${states[to]}`;
        }
      }
    });
  }
  const changed = (item, wanted) => {
    const [pair, from, to] = wanted.split(".");
    const [before, after] = compare[pair];
    if (to) return stateOf(item, before) === from && stateOf(item, after) === to;
    const a = outcomeOf(item, before, audio), b = outcomeOf(item, after, audio);
    return a !== NONE && b !== NONE && (from === "gained" ? a !== 0 && b === 0 : a === 0 && b !== 0);
  };

  /* Filters. Each has a key (as in a link), a title, its options, and a test of an item. */
  const chosen = {};
  const each = (wanted, length) => (wanted === undefined ? [...Array(length).keys()] : [Number(wanted)]);
  const numbered = (names) => Object.fromEntries(names.map((name, place) => [name, name]));
  const place = (names, name) => (name ? names.indexOf(name) : undefined);
  const filters = [];
  for (const [number, fact] of data.facts.entries()) {
    const found = new Map();
    for (const item of items) found.set(item.facts[number], (found.get(item.facts[number]) || 0) + 1);
    if (found.size < 2) continue;
    const codes = [...found.keys()].filter((code) => code >= 0).sort((a, b) => found.get(b) - found.get(a)).slice(0, 300);
    const options = Object.fromEntries(codes.map((code) => [fact.values[code], `${fact.values[code]} (${found.get(code)})`]));
    const none = "without one";
    if (found.has(-1)) options[none] = `${none} (${found.get(-1)})`;
    filters.push({
      key: `is.${fact.name}`, title: fact.name, options,
      test: (item, wanted) => (item.facts[number] < 0 ? none : fact.values[item.facts[number]]) === wanted,
    });
  }
  const anyAnswer = (item, test) => each(place(voters, chosen.voter), voters.length).some((voter) =>
    each(place(conditions, chosen.condition), conditions.length).some((condition) => test(outcomeOf(item, voter, condition))));
  if (items.some((item) => item.replies.length)) {
    filters.push(
      { key: "voter", title: "model", options: numbered(voters), test: (item) => anyAnswer(item, (found) => found !== NONE) },
      { key: "condition", title: "condition", options: numbered(conditions), test: (item) => anyAnswer(item, (found) => found !== NONE) },
      {
        key: "outcome", title: "answer was", options: { ...numbered(outcomes), "not right": "not right" },
        test: (item, wanted) => anyAnswer(item, (found) =>
          wanted === "not right" ? NOT_RIGHT.includes(outcomes[found]) : outcomes[found] === wanted),
      },
    );
    if (both) {
      filters.push({
        key: "audio", title: "what the audio did", options: states,
        test: (item, wanted) => each(place(voters, chosen.voter), voters.length).some((voter) => stateOf(item, voter) === wanted),
      });
    }
    if (Object.keys(changes).length) {
      filters.push({ key: "change", title: "change", options: changes, test: (item, wanted) => changed(item, wanted) });
    }
  }

  let words = null;
  const find = (item, text) => {
    words ??= items.map((one) =>
      [one.id, one.question, ...one.choices, ...new Set(one.replies.map((reply) => reply.text))].join("\n").toLowerCase());
    return text.toLowerCase().split(/\s+/).every((word) => words[item.place].includes(word));
  };

  const mean = (item, condition) => {
    const known = voters.map((_, voter) => shareOf(item, voter, condition)).filter((share) => !Number.isNaN(share));
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
  };
  const sorts = { file: { title: "order of the file", of: (item) => item.place } };
  data.numbers.forEach((name, number) => {
    sorts[`number.${name}`] = { title: name, of: (item) => item.numbers[number] ?? NaN };
  });
  conditions.forEach((name, condition) => {
    sorts[`right.${name}`] = { title: `right answers, ${name}`, of: (item) => mean(item, condition) };
  });
  sorts.question = { title: "question's text", of: (item) => item.question };
  data.facts.forEach((fact, number) => {
    sorts[`fact.${fact.name}`] = { title: fact.name, of: (item) => fact.values[item.facts[number]] ?? "" };
  });

  const select = () => {
    const used = filters.filter((filter) => chosen[filter.key] !== undefined);
    let shown = items.filter((item) => used.every((filter) => filter.test(item, chosen[filter.key])));
    const text = (chosen.text || "").trim();
    if (text) shown = shown.filter((item) => find(item, text));
    const key = sorts[chosen.sort] || sorts.file, turn = chosen.down ? -1 : 1;
    const values = new Map(shown.map((item) => [item, key.of(item)]));
    const unknown = (value) => value === "" || Number.isNaN(value);
    return shown.sort((a, b) => {
      const x = values.get(a), y = values.get(b);
      if (unknown(x) || unknown(y)) return unknown(x) - unknown(y) || a.place - b.place;
      return (x < y ? -turn : x > y ? turn : 0) || a.place - b.place;
    });
  };

  return { data, items, voters, conditions, outcomes, filters, sorts, chosen, select, outcomeOf, shareOf, stateOf, states, NONE };
})();
