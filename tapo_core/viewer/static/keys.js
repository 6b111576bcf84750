// Keys follow links: each link with data-key says which. Without this file the links are still there.
"use strict";
(() => {
  const links = () => [...document.querySelectorAll("a[data-key]")];
  const keysOf = (link) => link.dataset.key.split(" ");
  const typing = (target) =>
    target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)
      && !/^(checkbox|button|submit)$/.test(target.type));
  // A box that scrolls sideways takes the arrow keys for itself.
  const scrolls = (target) => target instanceof HTMLElement && target.scrollWidth > target.clientWidth && target.tabIndex === 0;

  // Only while it is open: once closed it stays in the page until its event "close" comes, and must not take keys meanwhile.
  const openList = () => document.querySelector("dialog#keys[open]");

  function help() {
    const old = openList();
    if (old) { old.close(); return; }
    const dialog = document.createElement("dialog");
    dialog.id = "keys";
    dialog.setAttribute("aria-labelledby", "keys-title");
    const title = document.createElement("h2");
    title.id = "keys-title";
    title.textContent = "Keys of this page";
    const list = document.createElement("dl");
    list.className = "facts";
    const row = (keys, what) => {
      const key = document.createElement("dt");
      for (const name of keys) {
        const shown = document.createElement("kbd");
        shown.textContent = name;
        key.append(shown, " ");
      }
      const told = document.createElement("dd");
      told.textContent = what;
      list.append(key, told);
    };
    for (const link of links()) row(keysOf(link), link.textContent.trim());
    row(["?"], "this list");
    const form = document.createElement("form");
    form.method = "dialog";
    const close = document.createElement("button");
    close.textContent = "Close";
    form.append(close);
    dialog.append(title, list, form);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.key.startsWith("Arrow") && scrolls(event.target)) return;
    if (event.key === "?") { event.preventDefault(); help(); return; }
    if (openList()) return;
    const link = links().find((one) => keysOf(one).includes(event.key));
    if (link) { event.preventDefault(); link.click(); }
  });
})();
