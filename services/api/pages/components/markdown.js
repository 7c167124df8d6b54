// The Markdown that reports are written in: headings, paragraphs, lists, tables, code, and pictures
// that the page knows. Links stay text: a report quotes what models wrote.
import { html } from "../lib/html.js";

// `images` are the addresses of the pictures that the text may show, by name.
export const Markdown = ({ text, images = {} }) => blocks(text).map((block, index) => html`<${Block} key=${index} block=${block} images=${images} />`);

export function blocks(text) {
  const found = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const fence = /^(`{3,})/.exec(lines[at]);
    const end = fence ? endOfFence(lines, at, fence[1]) : endOfBlock(lines, at);
    if (fence) found.push({ kind: "code", lines: lines.slice(at + 1, end - 1) });
    else if (lines[at].trim()) found.push({ kind: kindOf(lines[at]), lines: lines.slice(at, end) });
    at = end;
  }
  return found;
}

function kindOf(line) {
  if (/^#{1,4} /.test(line)) return "heading";
  if (line.startsWith("|")) return "table";
  if (line.startsWith("    ")) return "indented";
  if (/^!\[[^\]]*\]\([\w.]+\)$/.test(line)) return "image";
  if (/^[-*] /.test(line)) return "list";
  return line.startsWith(">") ? "quote" : "paragraph";
}

function endOfFence(lines, at, fence) {
  const close = lines.findIndex((line, index) => index > at && line.startsWith(fence));
  return close < 0 ? lines.length + 1 : close + 1;
}

function endOfBlock(lines, at) {
  const kind = kindOf(lines[at]);
  let end = at + 1;
  if (kind === "heading" || kind === "image") return end;
  while (end < lines.length && lines[end].trim() && !lines[end].startsWith("```") && (kind !== "paragraph" || kindOf(lines[end]) === "paragraph")) end += 1;
  return end;
}

function Block({ block: { kind, lines }, images }) {
  if (kind === "image") {
    const [, text, name] = /^!\[([^\]]*)\]\((.*)\)$/.exec(lines[0]);
    return images[name] ? html`<img class="plot" src=${images[name]} alt=${text} loading="lazy" />` : null;
  }
  if (kind === "indented") return html`<pre class="from-outside">${lines.map((line) => line.slice(4)).join("\n")}</pre>`;
  if (kind === "code") return html`<pre class="from-outside">${lines.join("\n")}</pre>`;
  if (kind === "heading") {
    const [, marks, title] = /^(#+) (.*)$/.exec(lines[0]);
    const Tag = `h${Math.min(4, marks.length + 1)}`;
    return html`<${Tag} class="from-outside">${inline(title)}</${Tag}>`;
  }
  if (kind === "table") return html`<${Table} lines=${lines} />`;
  if (kind === "list") return html`<ul>${lines.map((line, index) => html`<li key=${index} class="from-outside">${inline(line.replace(/^[-*] /, ""))}</li>`)}</ul>`;
  if (kind === "quote") return html`<blockquote class="from-outside">${inline(lines.map((line) => line.replace(/^> ?/, "")).join("\n"))}</blockquote>`;
  return html`<p class="from-outside">${inline(lines.join(" "))}</p>`;
}

function Table({ lines }) {
  const cells = (line) => line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const [head, , ...rows] = lines;
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="plain-table">
      <thead><tr>${cells(head).map((cell, index) => html`<th key=${index} class="from-outside">${inline(cell)}</th>`)}</tr></thead>
      <tbody>${rows.map((row, at) => html`<tr key=${at}>${cells(row).map((cell, index) => html`<td key=${index} class="from-outside">${inline(cell)}</td>`)}</tr>`)}</tbody>
    </table></div>`;
}

// `code` and **strong**; everything else is what it is.
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part, index) => {
    if (/^`[^`]+`$/.test(part)) return html`<code key=${index}>${part.slice(1, -1)}</code>`;
    if (/^\*\*[^*]+\*\*$/.test(part)) return html`<strong key=${index}>${part.slice(2, -2)}</strong>`;
    return part.replace(/\\([\\`*_{}[\]()#+\-.!|<>~])/g, "$1");
  });
}
