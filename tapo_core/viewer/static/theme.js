// Dark or light: as the system says, until the button says otherwise. Loaded before the page is drawn, so that it does not flash.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = localStorage.getItem("tapo-theme");
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  const now = () => root.dataset.theme || (system.matches ? "dark" : "light");
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const label = () => { button.textContent = now() === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    label();
    system.addEventListener("change", label);
    button.addEventListener("click", () => {
      root.dataset.theme = now() === "dark" ? "light" : "dark";
      localStorage.setItem("tapo-theme", root.dataset.theme);
      label();
    });
  });
})();
