// What the pages do beyond links and forms. Nothing here is needed to read or to find.
"use strict";
(() => {
  const cards = () => [...document.querySelectorAll("[data-card]")];
  const typing = (target) => target.closest("input, textarea, select, [contenteditable], dialog[open]");
  let at = -1;

  const go = (step) => {
    const all = cards();
    if (!all.length) return;
    const before = document.querySelector(".card.at");
    at = before ? all.indexOf(before) : -1;
    at = Math.max(0, Math.min(all.length - 1, at + step));
    before?.classList.remove("at");
    all[at].classList.add("at");
    all[at].querySelector(".name a").focus({ preventScroll: true });
    all[at].scrollIntoView({ block: "nearest" });
    if (at === all.length - 1) document.querySelector("[data-more]")?.click();
  };
  const open = () => document.querySelector(".card.at .name a")?.click();
  const vote = () => (document.querySelector(".card.at [data-vote]") ?? document.querySelector("main > * [data-vote]"))?.click();
  const find = () => document.querySelector("[data-find]")?.focus();
  const help = () => document.querySelector("#keys")?.showModal();
  const keys = { j: () => go(1), k: () => go(-1), o: open, u: vote, "/": find, "?": help };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target)) return;
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  const say = (words) => {
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.setAttribute("role", "status");
    toast.textContent = words;
    document.body.append(toast);
    setTimeout(() => toast.remove(), 2000);
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-help], [data-close]");
    if (!button) return;
    if (button.matches("[data-help]")) { event.preventDefault(); help(); return; }
    if (button.matches("[data-close]")) { button.closest("dialog").close(); return; }
    const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
    try { await navigator.clipboard.writeText(text); say("Copied"); }
    catch { say("The browser did not let this page copy; select the text instead"); }
  });

  // A point of a plot and its row of the table light up together.
  const twins = (element) => {
    const mark = element.closest("a.mark");
    const row = element.closest("tr[id]");
    if (mark) return [mark, document.getElementById(mark.getAttribute("href").slice(1))];
    if (row) return [row, document.querySelector(`a.mark[href="#${CSS.escape(row.id)}"]`)];
    return [];
  };
  for (const [name, lit] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => {
      if (event.target instanceof Element) for (const one of twins(event.target)) one?.classList.toggle("lit", lit);
    });
  }
  // A link into a folded part opens it.
  const reveal = () => {
    const there = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = there && there.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
    if (there) there.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
  document.documentElement.classList.add("js");
})();
