"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const kept = () => { try { return localStorage.getItem("earwitness-theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show this page ${dark() ? "light" : "dark"}`);
  };
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();
  show();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("earwitness-theme", root.dataset.theme); } catch { /* a page from disk may keep nothing */ }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  const reachable = () => document.querySelectorAll(".table, figure, pre").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  reachable();
  addEventListener("resize", reachable);
})();
