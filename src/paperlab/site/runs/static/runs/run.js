// A run's page, kept up to date: by server-sent events, by asking now and then where those do not come through.
"use strict";
(() => {
  const live = document.querySelector("#live[data-events]");
  if (!live) return;
  const state = document.querySelector("#state");
  let polling = 0;

  const show = (now) => {
    if (!now || !now.open) return location.reload();
    const open = live.querySelector("details")?.open;
    // The server's own templates, which escape what runs say. A state that is the same is not read out again.
    live.innerHTML = now.html;
    if (state.dataset.now !== now.state) state.innerHTML = state.dataset.now = now.state;
    const log = live.querySelector("details");
    if (log && open !== undefined) log.open = open;
    const lines = live.querySelector("pre");
    if (lines) lines.scrollTop = lines.scrollHeight;
  };
  const poll = () => {
    fetch(live.dataset.live, { headers: { Accept: "application/json" } })
      .then((answer) => (answer.ok ? answer.json().then(show) : undefined))
      .catch(() => {}); // the site is away: the next time
  };
  const fall = () => { polling ||= setInterval(poll, 3000); };

  if (!("EventSource" in window)) return fall();
  const source = new EventSource(live.dataset.events);
  source.onmessage = (event) => { clearInterval(polling); polling = 0; show(JSON.parse(event.data)); };
  source.onerror = fall; // a closed source stays closed; one that comes back ends the polling
})();
