// A request as the command line that sends it.

// In single quotes a shell takes everything as it is, but the quote itself.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(path, document, { withToken }) {
  const lines = [
    `curl -sS ${quoted(window.location.origin + path)}`,
    "-H 'Content-Type: application/json'",
    ...(withToken ? ['-H "Authorization: Bearer $RYANGPT_API_TOKEN"'] : []),
    `-d ${quoted(JSON.stringify(document, null, 2))}`,
  ];
  return lines.join(" \\\n  ");
}

// Without a secure context (plain HTTP on another host) there is no clipboard: false says so.
export async function copy(text) {
  if (!navigator.clipboard) return false;
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
