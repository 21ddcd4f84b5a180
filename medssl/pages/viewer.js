document.documentElement.classList.add("js");
for (const viewer of document.querySelectorAll(".viewer")) {
  const slices = viewer.querySelectorAll(".slice");
  const range = viewer.querySelector("input[type=range]");
  const shown = viewer.querySelector("input[type=checkbox]");
  const number = viewer.querySelector("output");
  const update = () => {
    slices.forEach((slice, k) => slice.classList.toggle("on", k === Number(range.value)));
    viewer.classList.toggle("bare", !shown.checked);
    number.textContent = `${Number(range.value) + 1} of ${slices.length}`;
  };
  const wheel = (event) => {
    event.preventDefault();
    range.value = Number(range.value) + Math.sign(event.deltaY);
    update();
  };
  range.addEventListener("input", update);
  shown.addEventListener("change", update);
  viewer.querySelector(".slices").addEventListener("wheel", wheel, { passive: false });
  update();
}
