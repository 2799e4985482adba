// The server's routes. Every failure is an Error whose message a reader understands.
import { $ } from "./dom.js";

const AWAY = "The server does not answer. Is it running, and is the network there?";

export function headers() { return $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {}; }

async function answerOf(path, options = {}) {
  let answer;
  try { answer = await fetch(path, { ...options, headers: headers() }); } catch { throw new Error(AWAY); }
  if (answer.ok) return answer;
  const error = new Error(messageOf(answer.status, await answer.text()));
  error.status = answer.status;
  throw error;
}

function messageOf(status, body) {
  try { return JSON.parse(body).error.message; } catch { return `The server answered with status ${status}.`; }
}

export async function about() { return (await answerOf("page/about")).json(); }

export async function sample(name) {
  const blob = await (await answerOf(`page/samples/${encodeURIComponent(name)}`)).blob();
  return new File([blob], name, { type: blob.type });
}

// A transcript, as it is shown, in one of the server's file formats.
export async function exported(transcript, format) {
  const form = new FormData();
  form.append("transcript", new Blob([JSON.stringify(transcript)], { type: "application/json" }), "transcript.json");
  return (await answerOf(`page/exports/${format}`, { method: "POST", body: form })).text();
}

// Uploads a file and calls `onUpload(fraction)`, then `onEvent(event)` for each line of the answer. Resolves after the
// last line; rejects with the server's error. XMLHttpRequest, because fetch does not tell how much has been sent.
export function transcribe(file, options, { onUpload, onEvent, signal }) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  let read = 0, isDone = false;
  return new Promise((resolve, reject) => {
    const lines = () => {
      if (request.status !== 200) return;
      const text = request.responseText;
      for (let end; (end = text.indexOf("\n", read)) >= 0; read = end + 1) {
        const event = JSON.parse(text.slice(read, end));
        if (event.event === "error") throw new Error(event.error.message);
        isDone = event.event === "done";
        onEvent(event);
      }
    };
    const guarded = work => () => { try { work(); } catch (error) { reject(error); request.abort(); } };
    request.open("POST", "page/transcripts");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = event => onUpload(event.loaded / event.total);
    request.upload.onload = () => onUpload(1);
    request.onprogress = guarded(lines);
    request.onload = guarded(() => {
      if (request.status !== 200) throw new Error(messageOf(request.status, request.responseText));
      lines();
      if (!isDone) throw new Error("The server ended its answer before the transcript was whole.");
      resolve();
    });
    request.onerror = () => reject(new Error(AWAY));
    request.onabort = () => reject(new Error("Cancelled."));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

// The WebSocket for live audio, at the address of the page. It has no headers, so the key is a subprotocol.
export function liveSocket() {
  const url = new URL(".", location.href), key = $("key").value;
  if (!/^[\w.~+-]*$/.test(key))
    throw new Error("Browsers send live audio only with API keys of letters, digits and . _ ~ + -; ask for such a key.");
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : []);
  socket.binaryType = "arraybuffer";
  return socket;
}
