"""A page that needs nothing but itself, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --quiet: #5c5c5c;
  --line: #d4d4d4; --stripe: #f5f6f8; --worse: #9c3a00; --better: #00644a; --focus: #0058a3;
  --shade: #0006; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #17191c; --quiet: #a9adb3;
  --line: #3c4046; --stripe: #1f2226; --worse: #ffab7a; --better: #6fd6b4; --focus: #8cc8ff;
  --shade: #fff5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 120rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
a { color: var(--focus); }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
.scroll { overflow-x: auto; margin-bottom: .5rem; display: flex; }
.scroll[data-more]::after { content: ""; flex: none; width: 0; position: sticky; right: 0;
  box-shadow: 0 0 .7rem .5rem var(--shade); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding: .25rem 0; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid var(--ink); }
tbody th { font-weight: 600; }
th.words, td.words { text-align: left; } td .answer { min-width: 6rem; max-width: 30rem; }
tr { background: var(--paper); } tbody tr:nth-child(even) { background: var(--stripe); }
th:first-child { position: sticky; left: 0; background: inherit; }
@media (max-width: 40rem) { body { padding: 1rem; } tbody th { white-space: normal; min-width: 7rem; } }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button:hover { text-decoration: underline; }
th button::after { content: " \\2195"; color: var(--quiet); font-weight: 400; }
th button:focus-visible, a:focus-visible, summary:focus-visible, .scroll:focus-visible
  { outline: 3px solid var(--focus); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
.range, .published, .note { color: var(--quiet); font-size: .82rem; } td div { line-height: 1.35; }
.note { margin: .2rem 0; max-width: 62rem; overflow-wrap: anywhere; }
summary { cursor: pointer; overflow-wrap: anywhere; padding: .35rem 0; }
details { border-bottom: 1px solid var(--line); } details[open] { padding-bottom: 1rem; }
.difference { font-size: .82rem; } .worse { color: var(--worse); font-weight: 600; }
.better { color: var(--better); font-weight: 600; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
.shown { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.shown figure { margin: 0; min-width: 0; } .shown img { display: block; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.answer { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
SCRIPT = """
"use strict";
// a table that goes on to the right has a shadow there
for (const area of document.querySelectorAll(".scroll")) {
  const look = () => {
    area.toggleAttribute("data-more", area.scrollWidth - area.clientWidth - area.scrollLeft > 1);
  };
  area.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(area);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const printed = [...body.rows];
  heads.forEach((head, column) => {
    const key = (row) => row.cells[column].dataset.value ?? "";
    const numbers = printed.every((row) => !isNaN(Number(key(row))));
    // numbers from the highest, words from a to z, and the third time as printed
    const orders = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
    head.querySelector("button").addEventListener("click", () => {
      const order = orders[orders.indexOf(head.getAttribute("aria-sort")) + 1];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order === undefined) { body.append(...printed); return; }
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") { return (x === "") - (y === ""); }
        return sign * (numbers ? Number(x) - Number(y) : x.localeCompare(y));
      };
      body.append(...[...printed].sort(compare));
    });
  });
}
"""
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: object) -> str:
    """Text from anywhere as inert HTML, control characters shown as replacement characters."""
    return html.escape(CONTROL.sub("\ufffd", str(value)), quote=True)


def foreign(value: object) -> str:
    """Text of a data set or a model: inert, and its writing direction kept to itself."""
    return f"<bdi>{text(value)}</bdi>"


def picture_source(content: bytes, kind: str) -> str:
    """A picture as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def anchor(title: str) -> str:
    """An id made of a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def page(title: str, parts: Sequence[str], summary: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        title: of the page.
        summary: lines below the title.
        parts: sections, each beginning with `<section id=... aria-label=...>`.
    """
    body = "\n".join(parts).replace(f"<h2>{text(title)}</h2>\n", "", 1)
    sections = re.findall(r'<section id="([^"]*)" aria-label="([^"]*)">', body)
    links = "".join(f'<li><a href="#{name}">{label}</a></li>' for name, label in sections)
    navigation = f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    about = "".join(f'<p class="note">{text(line)}</p>' for line in summary)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{text(title)}</h1>"
        f"{about}{navigation}</header>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _hash(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"sha256-{digest}"
