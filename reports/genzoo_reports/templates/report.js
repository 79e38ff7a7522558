"use strict";
// Sorts each scorecard body by the column whose heading is pressed; the floor row stays.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.querySelectorAll("tbody.sorted")) {
        const key = (row) => row.cells[column].dataset.order;
        const compare = (a, b) => {
          const x = key(a), y = key(b);
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
          return down ? -order : order;
        };
        body.append(...[...body.rows].sort(compare));
      }
    });
  });
}
// One slider for all films: each shows its last frame that is not later than the slider.
const moment = document.getElementById("moment");
if (moment) {
  const shares = moment.dataset.shares.split(" ").map(Number);
  const show = () => {
    const share = shares[moment.value], shown = Math.round(100 * share) + " %";
    moment.setAttribute("aria-valuetext", shown);
    document.querySelector("output[for=moment]").textContent = shown;
    for (const film of document.querySelectorAll(".film")) {
      const frames = [...film.querySelectorAll(".frame")];
      const past = frames.filter((frame) => frame.dataset.share <= 1.02 * share);
      const chosen = past.length ? past[past.length - 1] : frames[0];
      for (const frame of frames) frame.hidden = frame !== chosen;
    }
  };
  moment.addEventListener("input", show);
  moment.value = shares.length - 1; // browsers remember where it stood
  show();
}
// Every picture opens in a dialog; arrow keys go through those that are to be seen.
const zoom = document.getElementById("zoom");
if (zoom && zoom.showModal) {
  const large = document.createElement("img"), said = zoom.querySelector(".zoomed");
  zoom.querySelector(".stage").append(large);
  const open = () => [...document.querySelectorAll("button.zoom")].filter((b) => b.offsetParent);
  let at = null;
  const put = (button) => {
    const small = button.querySelector("img");
    at = button;
    large.src = small.src;
    large.alt = small.alt;
    // Whole multiples of the pixels, as large as the window allows.
    const own = [+small.getAttribute("width"), +small.getAttribute("height")];
    const fit = Math.min((innerWidth - 48) / own[0], (innerHeight - 150) / own[1]);
    const times = fit >= 1 ? Math.floor(fit) : fit;
    large.style.width = own[0] * times + "px";
    large.style.height = own[1] * times + "px";
    said.textContent = small.alt;
  };
  const step = (by) => {
    const all = open();
    put(all[(all.indexOf(at) + by + all.length) % all.length]);
  };
  for (const image of document.querySelectorAll("img.zooms")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "zoom";
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => { put(button); zoom.showModal(); });
  }
  zoom.querySelector(".before").addEventListener("click", () => step(-1));
  zoom.querySelector(".after").addEventListener("click", () => step(1));
  zoom.querySelector(".close").addEventListener("click", () => zoom.close());
  zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
  zoom.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  zoom.addEventListener("close", () => at && at.focus());
}
// On paper nothing can be unfolded; the tables beside the figures would be pages of numbers.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not(.numbers)")) fold.open = true;
});
