// One field. The token is sent once, in a header, and is never kept by the page.
import { html, useState } from "./lib/html.js";
import { request } from "./lib/api.js";
import { remember } from "./lib/preferences.js";
import { Mark } from "./header.js";

export function Login({ onOpened }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);

  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError("");
    try {
      await request("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${ascii(token)}` } });
      remember("signed-in", true);
      onOpened();
    } catch (problem) {
      setError(problem.status === 401 ? "This is not the token." : problem.message);
      setBusy(false);
    }
  };

  return html`
    <main class="login">
      <form class="card" onSubmit=${onSubmit}>
        <div class="card-body">
          <span class="brand"><${Mark} />Ryan-GPT</span>
          <div><h1 tabindex="-1">Sign in</h1><p class="muted small">With the platform's token, RYANGPT_API_TOKEN.</p></div>
          <div class="field">
            <label for="token">Token</label>
            <input id="token" type="password" autocomplete="current-password" required value=${token}
              aria-invalid=${error ? "true" : undefined} aria-describedby="token-error"
              onInput=${(event) => setToken(event.target.value)} />
            <span id="token-error" class="error" role="alert">${error}</span>
          </div>
          <button class="button button-primary" disabled=${busy}>${busy ? "Signing in …" : "Sign in"}</button>
        </div>
      </form>
    </main>`;
}

// A header takes no other characters; a token has none either.
const ascii = (text) => text.trim().replace(/[^\x21-\x7e]/g, "?");
