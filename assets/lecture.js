// Lecture mode: shows one slide of the dialog #lecture-view at a time. Everything it needs is in the
// page; it asks the server for nothing. The address keeps story and step: #lecture/one-step/3
(() => {
  "use strict";
  if (window.lecture) return;
  const ADDRESS = /^#lecture\/([\w-]+)\/([1-8])$/;
  const NO_TEXT = ["checkbox", "radio", "range", "button", "submit", "file", "color"];
  let wish = null; // [story, step] to open as soon as the slides have come

  const view = () => document.getElementById("lecture-view");
  const all = (selector) => [...view().querySelectorAll(selector)];
  const shown = () => view().querySelector(".lec-slide:not([hidden])");
  const unanswered = (slide) => "quiz" in slide.dataset && !slide.classList.contains("open");

  function typing(target) {
    if (!(target instanceof Element)) return false;
    const field = target.closest("input, textarea, select, [contenteditable]");
    if (!field) return false;
    return field.tagName !== "INPUT" || !NO_TEXT.includes(field.type);
  }

  function say(words) {
    view().querySelector(".lec-live").textContent = words;
  }

  function show(story, step) {
    const slides = all(".lec-slide");
    const here = slides.find((s) => s.dataset.story === story && s.dataset.step === String(step));
    const slide = here || slides[0];
    for (const other of slides) other.hidden = other !== slide;
    for (const image of slide.querySelectorAll("img[data-picture]")) {
      const name = `${slide.dataset.story}/${image.dataset.picture}`;
      image.src = all(".lec-store img").find((i) => i.dataset.store === name).src;
    }
    view().querySelector(".lec-story").value = slide.dataset.story;
    for (const button of all("[data-go]")) {
      if (button.dataset.go === slide.dataset.step) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    }
    veil(slide);
    view().scrollTop = 0;
    const address = new URL(location.href); // in full: the page has a base of its own
    address.hash = `#lecture/${slide.dataset.story}/${slide.dataset.step}`;
    if (location.href !== address.href) history.replaceState(history.state, "", address);
    say(slide.querySelector("h2").textContent);
    slide.querySelector("h2").focus();
  }

  // What is not to be seen yet is not to be heard or reached either.
  function veil(slide) {
    const hide = unanswered(slide);
    for (const part of slide.querySelectorAll(".lec-secret")) part.inert = hide;
  }

  function reveal(choice) {
    const slide = shown();
    if (!unanswered(slide)) return;
    const options = [...slide.querySelectorAll("[data-option]")];
    if (choice > options.length) return;
    slide.classList.add("open");
    for (const option of options) {
      const right = "right" in option.dataset;
      const chosen = option.dataset.option === String(choice);
      option.disabled = true;
      option.classList.toggle("right", right);
      option.classList.toggle("wrong", chosen && !right);
      option.parentElement.hidden = !right && !chosen;
    }
    veil(slide);
    const right = options.find((option) => "right" in option.dataset);
    say(view().dataset.measured.replace("{}", () => right.textContent));
    slide.querySelector("h2").focus();
  }

  function go(step) {
    const slide = shown();
    if (step >= 1 && step <= 8) show(slide.dataset.story, step);
  }

  function notes() {
    const on = view().classList.toggle("with-notes");
    view().querySelector('[data-key="n"]').setAttribute("aria-pressed", String(on));
  }

  function open() {
    const asked = ADDRESS.exec(location.hash);
    if (!view()) {
      wish = wish || (asked ? [asked[1], asked[2]] : ["", 1]);
      return;
    }
    const [story, step] = asked ? [asked[1], asked[2]] : wish || ["", 1];
    wish = null;
    if (!view().open) view().showModal();
    show(story, step);
  }

  function left() {
    const address = new URL(location.href);
    address.hash = "";
    if (address.searchParams.get("view") === "lecture") address.searchParams.delete("view");
    history.replaceState(history.state, "", address.pathname + address.search);
  }

  function act(key) {
    const slide = shown();
    const step = Number(slide.dataset.step);
    const forward = () => (unanswered(slide) ? reveal(0) : go(step + 1));
    const acts = {
      ArrowRight: forward, PageDown: forward, " ": forward,
      ArrowLeft: () => go(step - 1), PageUp: () => go(step - 1),
      Home: () => go(1), End: () => go(8),
      Enter: () => reveal(0), n: notes, Escape: () => view().close(), l: () => view().close(),
      1: () => reveal(1), 2: () => reveal(2), 3: () => reveal(3), 4: () => reveal(4),
    };
    if (!(key in acts)) return false;
    acts[key]();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (typing(event.target)) return;
    if (!view() || !view().open) {
      if (key === "l") open();
      return;
    }
    const pressed = event.target instanceof Element && event.target.closest("button");
    if (key === "Escape" || (pressed && (key === " " || key === "Enter"))) return; // the browser's
    if (act(key)) event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest("#lecture-view button");
    if (!button) return;
    if (button.dataset.key) act(button.dataset.key);
    if (button.dataset.go) go(Number(button.dataset.go));
    if (button.dataset.option) reveal(Number(button.dataset.option));
  });

  document.addEventListener("change", (event) => {
    if (event.target instanceof Element && event.target.matches(".lec-story")) show(event.target.value, 1);
  });

  // "close" does not bubble; it is caught on its way down.
  document.addEventListener("close", (event) => event.target === view() && left(), true);
  window.addEventListener("hashchange", () => ADDRESS.test(location.hash) && open());

  window.lecture = open;
  const asked = new URLSearchParams(location.search).get("view") === "lecture";
  if (asked || ADDRESS.test(location.hash) || document.querySelector('meta[name="vd-view"]')) open();
  new MutationObserver(() => wish && view() && open()).observe(document, { childList: true, subtree: true });
})();
