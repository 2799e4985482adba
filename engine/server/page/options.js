// What the reader asks for. The browser remembers it, except for the API key.
import { $, make } from "./dom.js";

const TEXTS = ["language", "hotwords", "voices"], SWITCHES = ["who", "channels", "itn"];
const MOST_VOICES = 10;

export function prepare() {
  for (let count = 1; count <= MOST_VOICES; count++) $("voices").append(make("option", { value: count, textContent: count }));
  for (const id of [...TEXTS, ...SWITCHES]) {
    recall(id);
    $(id).addEventListener("change", () => localStorage.setItem(id, SWITCHES.includes(id) ? $(id).checked : $(id).value));
  }
  $("who").addEventListener("change", showVoices);
  showVoices();
  $("options").open = matchMedia("(min-width: 60rem)").matches;
}

function recall(id) {
  const kept = localStorage.getItem(id);
  if (kept === null) return;
  if (SWITCHES.includes(id)) $(id).checked = kept === "true"; else $(id).value = kept;
}

function showVoices() { $("voices-row").hidden = !$("who").checked; }

export function offerLanguages({ languages, default_language: given }) {
  const first = given ? `As the server is set: ${given}` : "Detected by the model";
  $("language").replaceChildren(
    make("option", { value: "", textContent: first }),
    ...languages.map(({ code, name }) => make("option", { value: code, textContent: name })),
  );
  $("language").disabled = !languages.length;
  recall("language");
  if ($("language").selectedIndex < 0) $("language").value = "";
}

// The fields of a request for a file.
export function forFile() {
  const fields = { itn: $("itn").checked, channels: $("channels").checked ? "split" : "mix" };
  if ($("language").value) fields.language = $("language").value;
  if ($("hotwords").value.trim()) fields.hotwords = $("hotwords").value;
  if ($("who").checked) fields.spk = true;
  if ($("who").checked && $("voices").value) fields.num_speakers = $("voices").value;
  return fields;
}

export function forLive() {
  return { language: $("language").value, hotwords: $("hotwords").value.replaceAll("\n", ","), spk: $("who").checked };
}
