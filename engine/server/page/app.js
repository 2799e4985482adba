// The page: what is added goes through the queue, and one item at a time is shown, played, corrected and saved.
import { about, sample } from "./api.js";
import { $, clock, clockTo100ths, make, plural, say, trouble } from "./dom.js";
import { Exports } from "./exports.js";
import { Live } from "./live.js";
import * as options from "./options.js";
import { Player } from "./player.js";
import { Queue, saidOf } from "./queue.js";
import { Search } from "./search.js";
import { LOW, MID, TranscriptView } from "./transcript.js";

let shown = null, server = { takes_files: true };

const player = new Player((seconds, isPlaying) => view.setTime(seconds, { isFollowed: isPlaying && isFollowing }));
const view = new TranscriptView($("text"), {
  onPlay: seconds => { isFollowing = true; player.seek(seconds, { isPlayed: true }); },
  onPick: showWord,
  onBegin: () => player.pause(),
  onEdit: edited,
});
const search = new Search($("text"));
const queue = new Queue($("queue"), { onSelect: select, onChange: changed });
const exports = new Exports(transcriptOf, { onSave: () => { shown.isUnsaved = false; }, onTrouble: message => trouble($("trouble"), message) });
const live = new Live(endLive);
let isWaiting = false;
let isFollowing = true;  // the text scrolls with the audio until the reader scrolls

// --- what is shown

function select(item) {
  shown = item;
  $("empty").hidden = true;
  $("live").hidden = !live.isOn;
  $("view").hidden = false;
  queue.mark(item);
  player.unload();
  search.clear();
  $("word-facts").textContent = "Click a word to hear it, double-click to correct it";
  $("word-edit").hidden = true;
  view.show(item.segments, item.hues);
  refresh();
  if (!matchMedia("(min-width: 60rem)").matches) $("view").scrollIntoView();
}

function changed(item, what, fresh) {
  $("files").hidden = !queue.items.length;
  if (what === "done") say(`${item.name} is transcribed: ${plural(item.segments.length, "segment")}`);
  if (item.state === "failed") say(`${item.name}: ${item.error}`);
  if (item !== shown) return;
  if (what === "removed") { showNothing(); return; }
  if (what === "segments") { view.append(fresh); refreshSoon(); return; }
  if (what === "done" || (what === "state" && !item.segments.length && view.segments.length)) view.show(item.segments, item.hues);
  refresh();
}

function showNothing() {
  shown = null;
  player.unload();
  view.clear();
  $("view").hidden = true;
  $("empty").hidden = false;
}

// Once a picture, because the segments of a long recording come by the hundred.
function refreshSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => { isWaiting = false; if (shown) refresh(); });
}

function refresh() {
  const item = shown, isDone = item.state === "done", isHeard = item.duration > 0;
  $("title").textContent = item.name;
  $("facts").textContent = isDone ? factsOf(item) : item.state === "failed" ? "" : saidOf(item);
  trouble($("trouble"), item.error);
  $("again").hidden = !item.error;
  $("progress").hidden = isDone || item.state === "failed";
  if (item.fraction === undefined) $("progress").removeAttribute("value"); else $("progress").value = item.fraction;
  for (const id of ["copy", "save", "finder", "tools"]) $(id).hidden = !isDone || !item.segments.length;
  $("text").hidden = !item.segments.length;
  $("player").hidden = !isHeard;
  if (isHeard && player.audio.src !== item.url) player.load(item, spansOf(item));
  else if (isHeard) player.setSpans(spansOf(item));
  $("improve").hidden = !(isDone && item.isLive && server.takes_files);
  showWarnings(isDone ? item.about.warnings : []);
  const low = isDone ? view.count(entry => entry.confidence < MID) : 0;
  $("legend").hidden = !low;
  $("next-uncertain").hidden = !low;
  $("next-uncertain").textContent = `${plural(low, "uncertain word")} ›`;
}

function factsOf(item) {
  const { about: { language, confidence } } = item, words = view.count(entry => entry.word);
  const facts = [clock(item.duration), words ? plural(words, "word") : item.segments.length ? "no word times" : "no speech was found"];
  if (view.speakers.length) facts.push(plural(view.speakers.length, "speaker"));
  if (language) facts.push(language);
  if (confidence) facts.push(`${Math.round(confidence * 100)} % sure`);
  return facts.join(" · ");
}

function spansOf(item) {
  return item.segments.map(({ start, end, speaker }) => ({ start, end, hue: view.hueOf(speaker) }));
}

function showWarnings(warnings) {
  $("warnings").hidden = !warnings.length;
  $("warnings").querySelector("summary").textContent = plural(warnings.length, "warning");
  $("warnings").querySelector("ul").replaceChildren(...warnings.map(({ message }) => {
    const start = message.match(/^(?:channel \d+, )?([\d.]+) to [\d.]+ s: /)?.[1];  // as the engine names a segment
    if (start === undefined) return make("li", { textContent: message });
    const play = make("button", { type: "button", className: "small quiet", textContent: clock(start), onclick: () => player.seek(Number(start), { isPlayed: true }) });
    play.setAttribute("aria-label", `Play from ${clock(start)}`);
    return make("li", {}, play, " ", message);
  }));
}

function showWord(entry) {
  $("word-edit").hidden = false;
  const sure = entry.confidence === undefined ? "" : entry.confidence === 1 ? "" : ` · ${Math.round(entry.confidence * 100)} % sure`;
  const isUnsure = entry.confidence < LOW ? " (it may be wrong)" : "";
  $("word-facts").textContent = `“${entry.span.textContent.slice(0, 60)}” ${clockTo100ths(entry.start)}–${clockTo100ths(entry.end)}${sure}${isUnsure}`;
}

// --- what the reader changes

function edited(before, after) {
  shown.isEdited = shown.isUnsaved = true;
  shown.segments = view.segments;
  shown.hues = view.hues;
  for (const turn of shown.about.turns ?? []) if (turn.speaker === before) turn.speaker = after;
  queue.tell(shown, "edited");
  if ($("search").value) search.run();
}

// The server finds text and words in the segments.
function transcriptOf() { return { ...shown.about, segments: shown.segments }; }

// --- what the reader adds

function add(files) {
  trouble($("trouble-adding"), null);
  if (!server.takes_files) { trouble($("trouble-adding"), "This server takes no files, only live audio."); return; }
  const most = server.max_file_bytes, items = [], problems = [];
  for (const file of files) {
    if (file.size > most) problems.push(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, and this server takes ${Math.floor(most / 1e6)} MB.`);
    else items.push(queue.add(file, options.forFile()));
  }
  trouble($("trouble-adding"), problems.join(" "));
  if (items.length && !live.isOn) select(items[0]);
}

async function speak() {
  if (live.isOn) { live.stop(); return; }
  trouble($("trouble-adding"), null);
  player.pause();
  $("mic").disabled = true;
  try {
    await live.start(options.forLive());
  } catch (error) {
    trouble($("trouble-adding"), error.message);
    return;
  } finally { $("mic").disabled = false; }
  for (const id of ["empty", "view"]) $(id).hidden = true;
  $("live").hidden = false;
  $("mic").textContent = "■ Stop";
  $("live").scrollIntoView({ block: "nearest" });
  say("Listening");
}

function endLive(recording) {
  $("mic").textContent = "● Speak";
  const problem = $("live-trouble").textContent;
  if (!recording) { $("live").hidden = true; if (shown) select(shown); else showNothing(); trouble($("trouble-adding"), problem); return; }
  const { warnings, ...fields } = recording;
  const notes = { key: recording.name.replace(".wav", ""), duration: recording.duration, language: null, confidence: null, warnings };
  if (problem) trouble($("trouble-adding"), problem);
  select(queue.addDone({ ...fields, isLive: true, about: notes }));
  say("The recording has ended");
}

// --- the rest of the page

async function meetServer() {
  try { server = await about(); } catch (error) {
    if (error.status === 401) { $("key-row").hidden = false; $("options").open = true; }
    trouble($("trouble-adding"), error.status === 401 ? "This server needs an API key: give it under Options." : error.message);
    return;
  }
  trouble($("trouble-adding"), null);
  options.offerLanguages(server);
  exports.offer(server.formats);
  for (const element of document.querySelectorAll(".for-files")) element.hidden = !server.takes_files;
  const { note } = server, name = note.name || server.model;
  $("model-name").textContent = name;
  document.title = `${name} · twostage-asr`;
  $("about").hidden = false;
  $("about-note").textContent = note.note;
  const facts = {
    Name: server.model, Family: server.family.replaceAll("_", " "), Languages: server.languages.map(each => each.name).join(", ") || "found by the model itself",
    Longest: `${clock(server.max_audio_s)} h`.replace(/:00:00 h/, " hours"),
  };
  $("about-facts").replaceChildren(...Object.entries(facts).flatMap(([term, fact]) => [make("dt", { textContent: term }), make("dd", { textContent: fact })]));
  $("sentences").hidden = !note.sentences.length;
  $("sentences").querySelector("ul").replaceChildren(...note.sentences.map(sentence => make("li", { textContent: sentence })));
  offerSamples(server.samples);
}

function offerSamples(names) {
  $("samples").hidden = !names.length;
  $("samples").querySelector("ul").replaceChildren(...names.map(name => {
    const shortName = name.replace(/\.[^.]*$/, "").replaceAll("_", " ");
    return make("li", {}, make("button", { type: "button", className: "chip", textContent: shortName, onclick: async () => {
      try { add([await sample(name)]); } catch (error) { trouble($("trouble-adding"), error.message); }
    } }));
  }));
}

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", isDark);
  player.waveform.draw();
}

function prepareTheme() {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)"), kept = () => localStorage.getItem("theme");
  setTheme(kept() ? kept() === "dark" : prefersDark.matches);
  prefersDark.addEventListener("change", () => { if (!kept()) setTheme(prefersDark.matches); });
  $("theme").onclick = () => {
    const isDark = document.documentElement.dataset.theme !== "dark";
    localStorage.setItem("theme", isDark ? "dark" : "light");
    setTheme(isDark);
  };
}

function press(event) {
  const { target } = event, isField = target.closest("input, select, textarea, [contenteditable]");
  if (isField || event.ctrlKey || event.metaKey || event.altKey) return;
  const isShown = shown && !$("view").hidden;
  if (event.key === " " && isShown && !target.closest("button:not(.w), summary")) player.toggle();
  else if (event.key === "/" && isShown) $("search").focus();
  else if (event.key === "n" && isShown) view.nextUncertain();
  else return;
  event.preventDefault();
}

function listen() {
  $("pick").onclick = () => $("file").click();
  $("file").onchange = () => { add($("file").files); $("file").value = ""; };
  $("mic").onclick = speak;
  $("again").onclick = () => queue.again(shown);
  $("redo").onclick = () => add([shown.file]);
  $("next-uncertain").onclick = () => view.nextUncertain();
  $("word-edit").onclick = () => { if (view.cursor) view.edit(view.cursor); };
  $("key").onchange = meetServer;
  document.addEventListener("keydown", press);
  for (const kind of ["wheel", "touchmove"]) addEventListener(kind, () => { isFollowing = false; }, { passive: true });
  addEventListener("beforeunload", event => {
    if (live.isOn || queue.items.some(item => item.isUnsaved)) event.preventDefault();  // the browser asks the reader
  });
  addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", event => {
    event.preventDefault();
    $("drop").classList.remove("over");
    add(event.dataTransfer.files);
  });
}

options.prepare();
prepareTheme();
listen();
await meetServer();
document.documentElement.dataset.ready = "";
