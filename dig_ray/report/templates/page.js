"use strict";
(() => {
  // Items are [code, ..., suffix or -1, title, events], sorted by code. A node is a run of them with a common prefix.
  const data = JSON.parse(document.getElementById("sid-data").textContent);
  const { levels, items, words, total } = data;
  const TITLE = levels + 1, EVENTS = levels + 2, AT_ONCE = 200, MATCHES = 50;
  const letters = "abcdefghijklmnopqrstuvwxyz";
  const count = new Intl.NumberFormat("en");

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const sid = (item) => {
    const names = item.slice(0, levels).map((code, level) => `${letters[level]}_${code}`);
    if (item[levels] >= 0) names.push(`${letters[levels]}_${item[levels]}`);
    return names.join(" ");
  };
  const leaf = (item) => {
    const made = element("li", undefined, "leaf");
    made.append(element("code", sid(item)), " ", element("bdi", item[TITLE]), " ");
    const events = element("span", count.format(item[EVENTS]), "count");
    events.title = "training events";
    made.append(events);
    return made;
  };
  const children = (start, end, depth) => {
    const found = [];
    for (let i = start; i < end; ) {
      let j = i + 1;
      while (j < end && items[j][depth] === items[i][depth]) j++;
      found.push([i, j]);
      i = j;
    }
    return found;
  };
  const node = (start, end, depth) => {
    // depth codes are common to items[start..end)
    if (end - start === 1) return leaf(items[start]);
    const prefix = items[start].slice(0, depth);
    const made = element("li"), details = element("details"), summary = element("summary");
    summary.append(element("code", `${letters[depth - 1]}_${prefix[depth - 1]}`), " ");
    summary.append(element("span", words[prefix.join(".")] || "", "words"), " ");
    const held = element("span", count.format(end - start), "count");
    held.title = "items";
    summary.append(held);
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector("ul")) {
        const list = element("ul");
        fill(list, start, end, depth);
        details.append(list);
      }
    });
    made.append(details);
    return made;
  };
  const fill = (list, start, end, depth) => {
    const runs = depth < levels
      ? children(start, end, depth).map(([i, j]) => () => node(i, j, depth + 1))
      : items.slice(start, end).map((item) => () => leaf(item));
    let shown = 0;
    const more = () => {
      const next = runs.slice(shown, shown + AT_ONCE).map((make) => make());
      list.append(...next);
      shown += next.length;
      if (shown < runs.length) {
        const row = element("li"), button = element("button", `Show ${Math.min(AT_ONCE, runs.length - shown)} more`);
        button.type = "button";
        button.addEventListener("click", () => { row.remove(); more(); });
        row.append(button);
        list.append(row);
      }
    };
    more();
  };

  const tree = document.getElementById("sid-tree"), matches = document.getElementById("sid-matches");
  const search = document.getElementById("sid-search"), status = document.getElementById("sid-found");
  fill(tree, 0, items.length, 0);
  document.getElementById("sid-tools").hidden = false;
  const idle = items.length < total
    ? `The ${count.format(items.length)} items with the most training events, of ${count.format(total)}.` : "";
  status.textContent = idle;
  let waiting = 0;
  const find = () => {
    const wanted = search.value.trim().toLowerCase();
    tree.hidden = wanted !== "";
    if (!wanted) { matches.replaceChildren(); status.textContent = idle; return; }
    const parts = wanted.split(/\s+/);
    const found = [];
    let all = 0;
    for (const item of items) {
      const text = `${item[TITLE].toLowerCase()} ${sid(item)} `;
      if (parts.every((part) => text.includes(/^[a-z]_\d+$/.test(part) ? `${part} ` : part))) {
        all++;
        if (found.length < MATCHES) found.push(leaf(item));
      }
    }
    matches.replaceChildren(...found);
    status.textContent = all > MATCHES
      ? `${count.format(all)} items found, the first ${MATCHES} are shown.` : `${count.format(all)} items found.`;
  };
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(find, 120); });

  // the section in view is marked in the navigation
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-15% 0px -60% 0px" });
  for (const id of links.keys()) watch.observe(document.getElementById(id));
})();
