// The header: where one is, the way to a new job, light or dark, and out.
import { html } from "./lib/html.js";
import { request } from "./lib/api.js";
import { link } from "./lib/router.js";
import { applyTheme, recall, remember, usePreference } from "./lib/preferences.js";
import { capital } from "./lib/format.js";

const SECTIONS = ["jobs", "models", "chat", "data", "workers"];
const THEMES = { auto: "light", light: "dark", dark: "auto" };

export function Header({ route }) {
  const section = route.parts[0] ?? "jobs";
  return html`
    <header class="header">
      <div class="header-inner">
        <a class="brand" href=${link(["jobs"])}><${Mark} /><span>Ryan-GPT</span></a>
        <nav class="nav" aria-label="Pages">
          ${SECTIONS.map((name) => html`
            <a key=${name} href=${link([name])} aria-current=${name === section ? "page" : undefined}>${capital(name)}</a>`)}
        </nav>
        <div class="header-tools">
          <${ThemeButton} />
          ${recall("signed-in", false) && html`
            <button type="button" class="button button-plain" onClick=${signOut}>Sign out</button>`}
          <a class="button button-primary" href=${link(["new"])}>New job</a>
        </div>
      </div>
    </header>`;
}

async function signOut() {
  await request("/v1/session", { method: "DELETE" });
  remember("signed-in", false);
  window.location.reload();
}

function ThemeButton() {
  const [theme, setTheme] = usePreference("theme", "auto");
  const turn = () => {
    setTheme(THEMES[theme]);
    applyTheme(THEMES[theme]);
  };
  const paths = {
    auto: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
    light: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6 16 16M4 16l1.4-1.4M14.6 5.4 16 4",
    dark: "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z",
  };
  return html`
    <button type="button" class="button button-plain icon-button" onClick=${turn}
      aria-label=${`Colours: ${theme}. Change to ${THEMES[theme]}`} title=${`Colours: ${theme}`}>
      <svg viewBox="0 0 20 20" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">
        <path d=${paths[theme]} fill=${theme === "auto" ? "currentColor" : "none"} fill-opacity=${theme === "auto" ? "0.25" : "1"} />
      </svg>
    </button>`;
}

export const Mark = () => html`
  <svg viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="8" fill="#3355d1" />
    <path d="M6 8c2 9 5 14 10 14.5 4 .4 7-.3 10 .5" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round" />
  </svg>`;
