"use strict";
const pause = document.getElementById("pause");
let paused = false;
const every = Number(document.body.dataset.refresh);
pause.hidden = !every;
pause.onclick = () => {
  paused = !paused;
  pause.textContent = paused ? "go on" : "pause";
};
function renew(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName === "FORM") return;
  for (const one of [...old.attributes]) if (one.name !== "open" && !fresh.hasAttribute(one.name)) old.removeAttribute(one.name);
  for (const one of fresh.attributes)
    if (one.name !== "open" && old.getAttribute(one.name) !== one.value) old.setAttribute(one.name, one.value);
  const was = [...old.childNodes], is = [...fresh.childNodes];
  is.forEach((child, i) => (i < was.length ? renew(was[i], child) : old.append(child)));
  was.slice(is.length).forEach((child) => child.remove());
}
async function look() {
  if (paused || document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const name of ["header", "main"]) renew(document.querySelector(name), fresh.querySelector(name));
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
}
if (every) {
  setInterval(look, every * 1000);
  document.addEventListener("visibilitychange", look);
}
