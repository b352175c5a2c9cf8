"""The style sheet and the one script of a report. The page's policy allows this very script and no other."""

from __future__ import annotations

STYLE = """
:root { --ink: #1d232e; --soft: #5d6675; --line: #dde1e8; --card: #fff; --page: #f5f6f9; --accent: #2f5fc4;
  --good: #1a7f37; --bad: #b42318; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; overflow-wrap: break-word; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header > div { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { background: #17233d; color: #fff; padding: 28px 0 24px; }
header p { margin: 4px 0 0; color: #b9c4da; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 18px 0 6px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 18px 0; }
section > p:first-of-type { margin-top: 0; }
.lead { color: var(--soft); margin: 0 0 14px; font-size: .94rem; }
.warn { background: #fff7e6; border-color: #efd9a7; }
.warn ul { margin: 8px 0 0; padding-left: 20px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 18px 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.figures b { display: block; font-size: 1.7rem; line-height: 1.15; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .86rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 22px; }
.two > * { min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg + .wide { margin-top: 14px; }
svg text { font-size: 12px; fill: var(--soft); font-family: inherit; }
svg text.value { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); } .chance { stroke: var(--bad); stroke-dasharray: 2 3; }
.interval { stroke: var(--accent); stroke-width: 2; } .dot { fill: var(--accent); }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.empty { fill: #fafbfc; stroke: var(--line); }
.legend span { margin-right: 16px; white-space: nowrap; }
.legend { color: var(--soft); font-size: .88rem; margin: 6px 0 0; }
.legend i { display: inline-block; width: 18px; height: 3px; margin-right: 6px; vertical-align: middle; }
.wide { overflow-x: auto; }
.scroll { max-height: 420px; overflow: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.scroll th, .scroll td { padding-left: 12px; }
th { color: var(--soft); font-weight: 550; vertical-align: bottom; }
td { overflow-wrap: anywhere; min-width: 3.6em; } .scroll td:first-child { min-width: 5em; }
td.n { white-space: nowrap; } td.n, th.n { text-align: right; }
.bar { position: relative; min-width: 90px; height: 10px; border-radius: 5px; background: #eceff4; margin-top: 7px; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: var(--accent); }
#readout { min-height: 1.5em; margin: 6px 0; font-weight: 550; overflow-wrap: anywhere; }
#matrix rect.on { stroke: #111; stroke-width: 1.5; }
#matrix rect[data-i] { cursor: crosshair; }
.examples { display: grid; gap: 18px; } .examples article { min-width: 0; }
.examples img { display: block; max-width: 100%; min-width: min(760px, var(--width)); height: auto; }
.examples p { margin: 0 0 4px; overflow-wrap: anywhere; }
bdi, b { unicode-bidi: isolate; }
.right b { color: var(--good); } .wrong b { color: var(--bad); }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--accent); font-weight: 550; }
dl { display: grid; grid-template-columns: minmax(110px, 260px) 1fr; gap: 2px 14px; margin: 0; font-size: .9rem; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere; }
footer { max-width: 1080px; margin: 0 auto; padding: 4px 20px 40px; color: var(--soft); font-size: .86rem; }
@media (max-width: 640px) {
  body { font-size: 15px; } main, header > div { padding: 0 12px; } section { padding: 16px 14px; margin: 12px 0; }
  .figures { grid-template-columns: 1fr 1fr; gap: 10px; margin: 12px 0; } .figures b { font-size: 1.4rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  #matrix { min-width: min(520px, var(--width)); } svg:not(#matrix) text { font-size: 20px; }
  .scroll .texts td { min-width: 9em; } .bar { min-width: 48px; }
  .scroll td:has(> .bar), .scroll th:empty { display: none; } .scroll td:first-child { min-width: 6.5em; }
}
@media print {
  @page { margin: 14mm; }
  body { background: #fff; font-size: 10.5pt; } header { background: none; color: var(--ink); padding: 0 0 6px; }
  header p { color: var(--soft); } main, header > div, footer { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 12px 0; margin: 10px 0; }
  .figures div { padding: 8px 10px; } .warn { border: 1px solid #efd9a7; padding: 10px 12px; }
  h2, h3, .lead, #readout { break-after: avoid; }
  .figures { grid-template-columns: repeat(5, 1fr); }
  svg, tr, article, .figures { break-inside: avoid; }
  .scroll { max-height: none; overflow: visible; border: 0; } .wide { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .examples img { min-width: 0; } #readout, .hover { display: none; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""

SCRIPT = """
(function () {
  var matrix = document.getElementById("matrix"), readout = document.getElementById("readout");
  if (!matrix || !readout) return;
  var data = JSON.parse(document.getElementById("confusion").textContent), last = null;
  var left = +matrix.dataset.left, top = +matrix.dataset.top, cell = +matrix.dataset.cell;
  matrix.querySelectorAll("rect[data-i]").forEach(function (rect) {
    rect.removeChild(rect.firstChild);
  });
  function name(i) {
    return "\\u2068" + data.names[i] + "\\u2069";
  }
  function show(event) {
    var point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.getScreenCTM().inverse());
    var i = Math.floor((point.y - top) / cell), j = Math.floor((point.x - left) / cell);
    if (last) last.classList.remove("on");
    last = null;
    if (i < 0 || j < 0 || i >= data.names.length || j >= data.names.length) return;
    var videos = data.counts[i][j], total = data.totals[i];
    last = matrix.querySelector('rect[data-i="' + i + '"][data-j="' + j + '"]');
    if (last) last.classList.add("on");
    readout.textContent = name(i) + (i === j ? " recognised: " : " taken for " + name(j) + ": ") +
      +videos.toFixed(2) + " of " + total + (total ? " (" + Math.round(100 * videos / total) + "%)" : "");
  }
  matrix.addEventListener("pointermove", show);
  matrix.addEventListener("pointerdown", show);
})();
"""
