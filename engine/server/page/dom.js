// Small helpers: elements by id, new elements, and times as people read them.

export const $ = id => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// 0:07, 12:30, 1:02:03
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6)), pad = number => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

// 0:07.25, for the times of words
export function clockTo100ths(seconds) {
  const hundredths = Math.round(seconds * 100);
  return `${clock(Math.floor(hundredths / 100))}.${String(hundredths % 100).padStart(2, "0")}`;
}

export function say(text) { $("status").textContent = text; }

// Shows a problem in an element with role="alert", or hides the element if there is none.
export function trouble(element, text) {
  (element.querySelector("span") ?? element).textContent = text ?? "";
  element.hidden = !text;
}

export function plural(count, noun) { return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`; }
