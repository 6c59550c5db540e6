/* What pages do beyond plain forms: keys, drafts that survive, time on task, dragging ranks. Nothing needs it. */
"use strict";

const form = document.querySelector("form[data-slot]");
const status_line = document.querySelector(".status");

function say(text) {
  if (status_line) status_line.textContent = text;
}

/* Storage may be switched off: then drafts are the server's alone. */
const kept = {
  name: (slot) => `accord:${slot}`,
  set(slot, fields) { try { sessionStorage.setItem(this.name(slot), JSON.stringify(fields)); } catch { /* none */ } },
  get(slot) { try { return JSON.parse(sessionStorage.getItem(this.name(slot))); } catch { return null; } },
  drop(slot) { try { sessionStorage.removeItem(this.name(slot)); } catch { /* none */ } },
};

const stored = document.body.dataset.stored;
if (stored) {
  kept.drop(stored);
  history.replaceState(null, "", location.pathname);
}
document.querySelectorAll("[data-script]").forEach((element) => { element.hidden = false; });

/* Keys: letters and digits of whatever layout, by position where it has no such letter; never while a text is typed. */
const TEXTS = "textarea, select, [contenteditable], input:not([type=radio], [type=checkbox], [type=range])";

function key_of(event) {
  const key = event.key.toLowerCase();
  if (/^[a-z]$/.test(key)) return event.shiftKey ? null : key;
  if (/^[0-9]$/.test(key)) return key;
  const place = event.shiftKey ? null : /^(?:Key([A-Z])|(?:Digit|Numpad)([0-9]))$/.exec(event.code);
  return place ? (place[1] || place[2]).toLowerCase() : null;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (event.target.closest(TEXTS)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = key_of(event);
  if (key === null) return;
  const element = document.querySelector(`[data-key="${key}"]:not(:disabled)`);
  if (element) {
    event.preventDefault();
    if (element.matches("textarea")) element.focus();
    else element.click();
  } else if (form && (press_rank(key) || press_scale(key))) {
    event.preventDefault();
  }
});

/* Time on task: while the page can be seen. */
const seconds = form && form.elements.seconds;
let counted = seconds ? Number(seconds.value) || 0 : 0;
let since = document.hidden ? null : performance.now();

function count() {
  const now = performance.now();
  if (since !== null) counted += (now - since) / 1000;
  since = document.hidden ? null : now;
  if (seconds) seconds.value = counted.toFixed(1);
}
document.addEventListener("visibilitychange", count);

/* Drafts: kept here at once, on the server a moment later, and dropped here when the server has them. */
function fields() {
  count();
  return Object.fromEntries([...new FormData(form)].filter(([name]) => name !== "form_token"));
}

let waiting = null;
let version = 0;

function changed() {
  version += 1;
  kept.set(form.dataset.slot, fields());
  clearTimeout(waiting);
  waiting = setTimeout(save, 600);
}

async function save() {
  const saved = version;
  const body = new URLSearchParams({ ...fields(), form_token: form.elements.form_token.value });
  try {
    const answer = await fetch(`/work/${form.dataset.slot}/draft`, { method: "POST", body });
    if (answer.ok) {
      if (saved === version && !form.dataset.sent) kept.drop(form.dataset.slot);
      say("Kept.");
      return;
    }
    say(answer.status === 409
      ? "The time for this item has passed, and somebody else has it now. What you wrote is still here."
      : "Not kept on the server; it is kept in this browser.");
    if (answer.status === 409) return;
  } catch {
    say("The server cannot be reached; what you wrote is kept in this browser.");
  }
  clearTimeout(waiting);
  waiting = setTimeout(save, 5000);
}

function restore() {
  const typed = kept.get(form.dataset.slot);
  if (!typed) return;
  let differs = false;
  for (const [name, value] of Object.entries(typed)) {
    const field = form.elements[name];
    if (!field || name === "seconds" || field.value === undefined || field.value === value) continue;
    field.value = value;
    differs = true;
  }
  if (differs) say("What you had typed is here again.");
}

if (form) {
  restore();
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    clearTimeout(waiting);
    kept.set(form.dataset.slot, fields());
    say(event.submitter?.dataset.busy || "");
  });
  window.addEventListener("pageshow", () => { delete form.dataset.sent; });
  form.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => {
    const into = document.getElementById(button.dataset.into);
    into.value = document.getElementById(button.dataset.copy).value;
    into.focus();
    changed();
  }));
}

/* Ranks: the selects hold them; digits and dragged letters set the selects. */
const board = form && form.querySelector(".board");
const ranks = board ? [...form.querySelectorAll("select[name^='rank-']")] : [];
let tie_next = false;

function show_ranks() {
  ranks.forEach((select, place) => {
    board.querySelector(`.tier[data-rank="${select.value}"]`).append(board.querySelector(`.chip[data-place="${place}"]`));
    form.querySelector(`.answer[data-place="${place}"]`).classList.toggle("ranked", select.value !== "");
  });
}

function set_rank(place, value) {
  ranks[place].value = value;
  show_ranks();
  changed();
  say(value ? `${"ABCDEFGHI"[place]} is ${value}.` : `${"ABCDEFGHI"[place]} is not ranked.`);
}

function press_rank(key) {
  if (!board) return false;
  if (key === "t") {
    tie_next = true;
    say("The next answer ties with the last.");
    return true;
  }
  const place = Number(key) - 1;
  if (!(place >= 0 && place < ranks.length)) return false;
  const last = Math.max(0, ...ranks.map((select) => Number(select.value)));
  set_rank(place, ranks[place].value ? "" : String(tie_next ? Math.max(1, last) : Math.min(ranks.length, last + 1)));
  tie_next = false;
  return true;
}

if (board) {
  board.hidden = false;
  show_ranks();
  ranks.forEach((select) => select.addEventListener("change", show_ranks));
  let held = null;
  const tier_at = (event) => document.elementsFromPoint(event.clientX, event.clientY).find((e) => e.matches(".tier"));
  board.addEventListener("pointerdown", (event) => {
    held = event.target.closest(".chip");
    if (!held) return;
    event.preventDefault();
    held.setPointerCapture(event.pointerId);
    held.classList.add("held");
  });
  board.addEventListener("pointermove", (event) => {
    if (!held) return;
    const over = tier_at(event);
    board.querySelectorAll(".tier").forEach((tier) => tier.classList.toggle("over", tier === over));
  });
  const drop = (event) => {
    if (!held) return;
    const over = event.type === "pointerup" ? tier_at(event) : null;
    const place = Number(held.dataset.place);
    held.classList.remove("held");
    held = null;
    board.querySelectorAll(".tier").forEach((tier) => tier.classList.remove("over"));
    if (over) set_rank(place, over.dataset.rank);
  };
  board.addEventListener("pointerup", drop);
  board.addEventListener("pointercancel", drop);
}

/* Scales: digits answer the first that has no answer, or the one that has the focus. */
const scales = form ? [...form.querySelectorAll(".scale")] : [];

function is_answered(scale) {
  const number = scale.querySelector("[type=number]");
  return number ? number.value !== "" : scale.querySelector(":checked") !== null;
}

function active_scale() {
  return scales.find((scale) => scale.contains(document.activeElement)) || scales.find((scale) => !is_answered(scale));
}

function mark_scale() {
  const active = active_scale();
  scales.forEach((scale) => scale.classList.toggle("active", scale === active));
}

function press_scale(key) {
  const scale = active_scale();
  if (!scale || !/^[0-9]$/.test(key)) return false;
  const number = scale.querySelector("[type=number]");
  if (number) {
    number.focus();
    number.value = key;
  } else {
    const step = scale.querySelector(`[value="${Number(scale.dataset.low) + Number(key) - 1}"]`);
    if (!step) return false;
    step.checked = true;
    document.activeElement.blur();
  }
  changed();
  mark_scale();
  return true;
}

if (scales.length) {
  mark_scale();
  form.addEventListener("focusin", mark_scale);
  form.addEventListener("change", mark_scale);
  form.querySelectorAll("[type=range]").forEach((slider) => {
    const number = document.getElementById(slider.dataset.for);
    const show = () => slider.classList.toggle("untouched", number.value === "");
    slider.hidden = false;
    show();
    slider.addEventListener("input", () => { number.value = slider.value; show(); });
    number.addEventListener("input", () => { slider.value = number.value; show(); });
  });
}
