"""The report page's style sheet: quiet, narrow or wide, light or dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2127; --soft: #5d6670; --line: #e3e6ea; --tint: #f4f6f9;
  --accent: #20639f; --bar: #dbe8f5; --plate: #15171b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --ink: #e2e5ea; --soft: #98a1ac; --line: #2c3037; --tint: #1b1e24;
    --accent: #7db4e8; --bar: #24405c; --plate: #0d0e11;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 75rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
    sans-serif;
  font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere;
}
h1, h2, h3 { line-height: 1.25; font-weight: 600; letter-spacing: -0.01em; }
h1 { margin: 0 0 .75rem; font-size: 2rem; }
h2 { margin: 0 0 .5rem; font-size: 1.375rem; }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; }
figure h3 { margin-top: 0; }
p { margin: 0 0 1rem; max-width: 44rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
section { margin-top: 4.5rem; }
.soft, figcaption, caption, summary { color: var(--soft); }
.lead { font-size: 1.125rem; }

.facts { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; margin: 2rem 0; padding: 0; }
.facts div { display: flex; flex-direction: column-reverse; }
.facts dt { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; font-size: 1.75rem; font-weight: 600; line-height: 1.2; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .9375rem;
  padding: .75rem 0; border-block: 1px solid var(--line); }

figure { margin: 0; }
figcaption { font-size: .875rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.strips { display: grid; grid-template-columns: minmax(0, 1fr); gap: 2rem; margin-top: 1.75rem; }
.strips figcaption { display: flex; flex-wrap: wrap; gap: 0 1.25rem; margin-bottom: .4rem; }
.strips figcaption b { color: var(--ink); font-weight: 600; }
.strips .scroll { background: var(--plate); border-radius: .375rem; padding: .375rem; }
.strips img { display: block; width: 100%; min-width: 47rem; height: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  gap: 2.25rem 2rem; margin: 1.75rem 0 2rem; }
.charts img { display: block; width: 100%; max-width: 30rem; height: auto; margin: .25rem 0; }
.matrix { margin: 1.5rem 0 1rem; }
.matrix img { display: block; height: auto; }
.walks { margin-top: 1.5rem; }
.walks td { padding: 1px; border: 0; }
.walks img { display: block; width: 4.25rem; height: auto; min-width: 3.25rem;
  background: #000; border-radius: 3px; }
.walks td + td.first, .walks th.first { padding-left: .75rem; }
.walks thead th { text-align: center; border: 0; padding: .125rem 1px; }
.walks tbody th { border: 0; vertical-align: middle; }

table { border-collapse: collapse; font-size: .9375rem; line-height: 1.4; margin: 0 0 1rem; }
caption { text-align: left; padding-bottom: .4rem; font-size: .875rem; }
th, td { padding: .4rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
td { overflow-wrap: break-word; }
th { font-weight: 500; overflow-wrap: normal; }
.scroll th:first-child { position: sticky; left: 0; background: var(--paper); }
thead th { color: var(--soft); font-size: .8125rem; white-space: nowrap; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
.name { white-space: nowrap; }
.detail { min-width: 16rem; }
tr.group th { padding-top: 1.5rem; font-weight: 600; }
tbody:first-of-type tr.group th { padding-top: .75rem; }
tr.best > * { font-weight: 650; }
tr.total > * { font-weight: 600; border-bottom: 0; }
.share { min-width: 7rem; background: linear-gradient(var(--bar), var(--bar)) no-repeat left
  center / var(--share, 0%) 72%; }
.pairs th { overflow-wrap: anywhere; color: var(--soft); font-weight: 400; padding-right: 1.5rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: .5rem 3rem; align-items: start; margin-top: 1.25rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; padding: .25rem 0; }
details[open] > summary { margin-bottom: .5rem; }
pre { margin: 0 0 1rem; padding: .75rem 1rem; background: var(--tint); border-radius: .375rem;
  overflow-x: auto; font: .875rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; overflow-wrap: normal; }
dl.commands { margin: 1.25rem 0 0; }
dl.commands dt { margin-bottom: .25rem; }
dl.commands dd { margin: 0; }
dl.commands pre { white-space: pre-wrap; }

@media (max-width: 40rem) {
  body { padding: 2rem 1rem 3rem; }
  h1 { font-size: 1.625rem; }
  section { margin-top: 3.25rem; }
  .facts { gap: 1.25rem 2rem; }
  .facts dd { font-size: 1.375rem; }
  th, td { padding-inline: .5rem; }
}
@media print {
  body { max-width: none; padding: 0; }
  nav { display: none; }
  figure { break-inside: avoid; }
}
"""
"""No font, picture or rule is loaded from anywhere else."""
