// What this browser remembers of how its owner likes to look at things. Never data.
import { useState } from "./html.js";

const PREFIX = "ryangpt.";

export function recall(name, fallback, storage = localStorage) {
  try {
    const text = storage.getItem(PREFIX + name);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback; // storage is switched off or holds something else
  }
}

export function remember(name, value, storage = localStorage) {
  try {
    storage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // full or switched off: the page works, it forgets
  }
}

export function usePreference(name, fallback) {
  const [value, setValue] = useState(() => recall(name, fallback));
  return [value, (next) => {
    remember(name, next);
    setValue(next);
  }];
}

export function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  window.dispatchEvent(new Event("ryangpt:theme"));
}
