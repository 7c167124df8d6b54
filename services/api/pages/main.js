// The frame around every page: header, login, and which page an address means.
import { Failure, Skeleton } from "./components/basics.js";
import { ChatPage } from "./chat/page.js";
import { ComparePage } from "./jobs/compare.js";
import { DataPage } from "./data/page.js";
import { Header } from "./header.js";
import { html, render, useEffect, useState } from "./lib/html.js";
import { getJson, UNAUTHORIZED } from "./lib/api.js";
import { JobPage } from "./job/page.js";
import { JobsPage } from "./jobs/page.js";
import { Login } from "./login.js";
import { ModelsPage } from "./models/page.js";
import { ReportPage } from "./job/report.js";
import { SubmitPage } from "./submit/page.js";
import { applyTheme, recall } from "./lib/preferences.js";
import { useRoute } from "./lib/router.js";
import { WorkersPage } from "./workers/page.js";

const PAGES = {
  jobs: JobsPage, new: SubmitPage, data: DataPage, models: ModelsPage, chat: ChatPage, workers: WorkersPage,
  compare: ComparePage,
};

function pageOf({ parts }) {
  const [section = "jobs", id, detail] = parts;
  if (section === "jobs" && id) return detail === "report" ? ReportPage : JobPage;
  return PAGES[section] ?? JobsPage;
}

function App() {
  const route = useRoute();
  const [door, setDoor] = useState({ state: "asking", error: null });
  const ask = () => getJson("/v1").then(
    () => setDoor({ state: "open", error: null }),
    (error) => setDoor({ state: error.status === 401 ? "closed" : "failed", error }),
  );
  useEffect(() => {
    const close = () => setDoor({ state: "closed", error: null });
    window.addEventListener(UNAUTHORIZED, close);
    ask();
    return () => window.removeEventListener(UNAUTHORIZED, close);
  }, []);
  const where = route.parts.join("/");
  useEffect(() => {
    window.scrollTo(0, 0);
    document.querySelector("h1")?.focus({ preventScroll: true });
  }, [where]);

  if (door.state === "closed") return html`<${Login} onOpened=${ask} />`;
  const Page = pageOf(route);
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the page</a>
    <${Header} route=${route} />
    <main id="main" class="page" tabindex="-1">
      ${door.state === "asking" && html`<${Skeleton} />`}
      ${door.state === "failed" && html`<${Failure} error=${door.error} retry=${ask} />`}
      ${door.state === "open" && html`<${Page} key=${where} route=${route} />`}
    </main>`;
}

// The address behind `#` is the page's own: a plain link would leave it.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

applyTheme(recall("theme", "auto"));
render(html`<${App} />`, document.getElementById("app"));
