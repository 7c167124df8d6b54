// Requests to the platform's own address, and its errors as one class.

export const UNAUTHORIZED = "ryangpt:unauthorized";

export class ApiError extends Error {
  // `errors` holds {pointer, detail}: which fields of the document that was sent are wrong.
  constructor({ status, message, code = "", hint = "", errors = [] }) {
    super(message);
    this.name = "ApiError";
    Object.assign(this, { status, code, hint, errors });
  }
}

export async function request(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  const options = { method, headers: { ...headers }, body, signal, credentials: "same-origin" };
  if (json !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({
      status: 0, message: "The platform does not answer.", hint: "Is it running? It will be asked again.",
    });
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

export async function sendJson(path, json, { method = "POST", ...options } = {}) {
  const response = await request(path, { method, json, ...options });
  return response.status === 204 ? null : response.json();
}

export async function getText(path, options) {
  return (await request(path, options)).text();
}

// Problem details (RFC 9457), or OpenAI's shape below /inference.
export async function errorOf(response) {
  const document = await response.json().catch(() => ({}));
  if (response.status === 401) window.dispatchEvent(new Event(UNAUTHORIZED));
  const openai = document.error ?? {};
  return new ApiError({
    status: response.status,
    message: document.detail ?? openai.message ?? `The platform answered ${response.status}.`,
    code: document.code ?? openai.code ?? "",
    hint: document.hint ?? "",
    errors: document.errors ?? [],
  });
}

// fetch tells nothing about the progress of an upload; XMLHttpRequest does.
export function upload(file, onProgress) {
  const announced = sendJson("/v1/uploads", { filename: file.name, bytes: file.size });
  return announced.then(({ id }) => new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("PUT", `/v1/uploads/${encodeURIComponent(id)}/content`);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.upload.onprogress = (event) => onProgress(event.loaded / Math.max(1, event.total));
    sending.onerror = () => reject(new ApiError({
      status: 0, message: "The connection broke off.", hint: "Nothing was stored; send the file again.",
    }));
    sending.onload = async () => {
      const response = new Response(sending.responseText, { status: sending.status });
      if (response.ok) resolve(await response.json());
      else reject(await errorOf(response));
    };
    sending.send(file);
  }));
}
