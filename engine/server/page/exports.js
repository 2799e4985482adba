// Saving and copying a transcript. The server writes the formats, with what the reader has corrected.
import { exported } from "./api.js";
import { $, make, say } from "./dom.js";

const MEANINGS = {
  txt: "text", srt: "subtitles", vtt: "subtitles for the web", ass: "styled subtitles", json: "everything",
  ctm: "words with times", tsv: "table", TextGrid: "for Praat", rttm: "who speaks when", jsonl: "everything, one line",
};

export class Exports {
  // `transcriptOf()`: the transcript that is shown; `onSave()`: it is saved; `onTrouble(message)`.
  constructor(transcriptOf, { onSave, onTrouble }) {
    Object.assign(this, { transcriptOf, onSave, onTrouble });
    $("copy").onclick = () => this.copy().catch(error => onTrouble(error.message));
    document.addEventListener("click", event => { if (!$("save").contains(event.target)) $("save").open = false; });
    $("save").onkeydown = event => {
      if (event.key !== "Escape") return;
      $("save").open = false;
      $("save").querySelector("summary").focus();
    };
  }

  offer(formats) {
    const known = Object.keys(MEANINGS).filter(format => formats.includes(format));
    $("save").querySelector("ul").replaceChildren(...known.map(format => {
      const button = make("button", { type: "button", onclick: () => this.save(format).catch(error => this.onTrouble(error.message)) });
      button.append(make("b", { textContent: format === "TextGrid" ? format : format.toUpperCase() }), make("span", { textContent: MEANINGS[format] }));
      button.dataset.format = format;
      return make("li", {}, button);
    }));
  }

  async save(format) {
    $("save").open = false;
    const transcript = this.transcriptOf(), text = await exported(transcript, format);
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: `${transcript.key}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    this.onSave();
    say(`${link.download} is saved`);
  }

  async copy() {
    await toClipboard(await exported(this.transcriptOf(), "txt"));
    $("copy").textContent = "Copied";
    say("The text is copied");
    setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
  }
}

// Pages that come over plain http from elsewhere have no clipboard, so there the text is selected and copied.
async function toClipboard(text) {
  if (navigator.clipboard) { await navigator.clipboard.writeText(text); return; }
  const field = make("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("The browser does not let this page copy; select the text and copy it, or save it.");
}
