// What htmx is not asked for: which fragments are worth a request, and the keys. Every page is
// whole without this.
(() => {
  "use strict";

  const seen = (one) => {
    const box = one.getBoundingClientRect();
    return !document.hidden && box.bottom > 0 && box.top < innerHeight;
  };
  const stale = (is) => { for (const one of document.querySelectorAll(".stale")) one.hidden = !is; };

  document.addEventListener("htmx:configRequest", (event) => {
    // A request that nobody asked for by hand is a poll.
    if (event.detail.verb === "get" && !event.detail.triggeringEvent && !seen(event.detail.elt)) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    // The session has ended: the whole page has to say so.
    if (new URL(xhr.responseURL).pathname.endsWith("/login")) {
      event.detail.shouldSwap = false;
      location.reload();
      return;
    }
    stale(xhr.status >= 400);
    const open = [...target.querySelectorAll("details[id][open]")].map((one) => one.id);
    document.addEventListener("htmx:afterSwap", () => {
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    }, { once: true });
  });
  document.addEventListener("htmx:sendError", () => stale(true));

  const rows = () => [...document.querySelectorAll("[data-row]")].filter((one) => one.checkVisibility());
  const step = (by) => {
    const all = rows();
    const at = all.indexOf(document.activeElement);
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const keys = document.getElementById("keys");
    const search = document.querySelector("input[data-search]") ?? document.querySelector("a[data-search]");
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "?") keys.open ? keys.close() : keys.showModal();
    else if (event.key === "/" && search) search.tagName === "A" ? search.click() : search.focus();
    else return;
    event.preventDefault();
  });
})();
