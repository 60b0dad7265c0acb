"""The page's look: one style sheet, light and dark by the reader's own preference, from phones to wide screens."""

CSS = """
:root{color-scheme:light dark;--bg:#f7f6f3;--card:#fff;--ink:#1c1d22;--soft:#6b6d78;--rule:#e4e2dc;--accent:#4650d6;
--right:#128a54;--tint:#e7f5ed;--well:#f3f2ee;--c0:#4650d6;--c1:#e0682a;--c2:#12915a;--c3:#c22f75;--c4:#0c8fb0;
--c5:#b08400;
--c6:#8147c9;--c7:#d23c3c;--c8:#5a7d1f;--c9:#3979d9;--c10:#93614a;--c11:#70727c}
@media(prefers-color-scheme:dark){:root{--bg:#101116;--card:#181a21;--ink:#ecedf2;--soft:#9a9dab;--rule:#2a2d37;
--accent:#8b93ff;--right:#4fd08f;--tint:#14291f;--well:#12141a;--c0:#8b93ff;--c1:#ff9a5c;--c2:#4fd08f;--c3:#ff7ab2;
--c4:#4ccbe8;--c5:#e5bd3d;--c6:#bd8cff;--c7:#ff7b75;--c8:#a9cf5f;--c9:#79adff;--c10:#cf9d84;--c11:#a7aab6}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;overflow-wrap:break-word}
body{background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif}
main,.hero>div{max-width:1180px;margin:0 auto;padding:0 24px}
.hero{background:var(--card);border-bottom:1px solid var(--rule);padding:44px 0 30px;overflow:hidden}
.hero .top{display:flex;gap:32px;align-items:center;justify-content:space-between}
.hero svg{width:370px;flex:none}
.hero svg path{fill:none;stroke-width:2.5;stroke-linecap:round}
.hero svg text{font-size:12px;fill:var(--soft)}
h1{font-size:38px;line-height:1.12;letter-spacing:-.025em;margin:0 0 12px;font-weight:680}
.lead{font-size:17px;color:var(--soft);margin:0;max-width:54ch}
h2{font-size:24px;letter-spacing:-.015em;margin:56px 0 4px;font-weight:650}
h3{font-size:17px;margin:34px 0 10px;font-weight:620}
h3 small{font-weight:400;color:var(--soft);font-size:13px;margin-left:8px}
.note{color:var(--soft);margin:0 0 16px;max-width:75ch}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:1px;background:var(--rule);
border:1px solid
var(--rule);border-radius:12px;overflow:hidden;margin:30px 0 0}
.facts div{background:var(--card);padding:11px 15px}
.facts dt{font-size:12px;color:var(--soft)}
.facts dd{margin:1px 0 0;font-weight:600;font-size:16px;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.tabs>input{position:absolute;opacity:0;pointer-events:none}
.tabs>label{display:inline-block;padding:5px 14px;border-radius:99px;cursor:pointer;color:var(--soft);font-weight:550;
margin:0 2px 12px 0}
.tabs>input:checked+label{background:var(--ink);color:var(--bg)}
.tabs>input:focus-visible+label{outline:2px solid var(--accent);outline-offset:2px}
.tabs>.tab{display:none}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);border-radius:12px}
table{border-collapse:separate;border-spacing:0;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:8px 11px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
thead th{font-size:12px;font-weight:600;color:var(--soft);vertical-align:bottom;white-space:normal}
tbody th{font-weight:500;text-align:left;position:sticky;left:0;background:var(--card);z-index:1}
tbody th small{display:block;font-weight:400;color:var(--soft);font-size:12px}
thead th:first-child{text-align:left;position:sticky;left:0;background:var(--card);z-index:2}
tr.group th,tr.group td{background:var(--well);font-weight:650;font-size:12.5px;padding-top:7px;padding-bottom:7px}
tr.group td{color:var(--soft);font-weight:500}
tr.all th,tr.all td{border-bottom:0;border-top:2px solid var(--rule);font-weight:620}
td.score{background:color-mix(in srgb,var(--accent) calc(var(--v)*34%),transparent)}
td.best{font-weight:750}
td.faint,th.faint{color:var(--soft);font-weight:400}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(330px,100%),1fr));gap:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:13px 14px 8px}
figcaption{font-weight:600;font-size:14px;margin-bottom:6px}
figure svg{display:block;width:100%}
figure text{font-size:11.5px;fill:var(--soft)}
figure .grid{stroke:var(--rule);stroke-width:1}
figure .line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
figure .raw{fill:none;stroke-width:1;opacity:.26}
.legend{overflow-wrap:anywhere}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:0 0 14px;font-size:13px;
color:var(--soft)}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px;vertical-align:-1px}
.example{background:var(--card);border:1px solid var(--rule);border-radius:14px;margin:0 0 16px;display:grid;
grid-template-columns:232px minmax(0,1fr)}
.example>.query{padding:15px;border-right:1px solid var(--rule);background:var(--well);
border-radius:13px 0 0 13px;min-width:0}
.tag{font-size:11.5px;color:var(--soft);margin:0 0 8px;display:flex;gap:6px;align-items:center;
font-variant-numeric:tabular-nums}
.tag b{color:var(--ink);font-size:13px}
.tag span{margin-left:auto}
.results{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(128px,1fr);gap:10px;padding:15px;overflow-x:auto;
margin:0;list-style:none}
.result{border:1.5px solid var(--rule);border-radius:10px;padding:9px;min-width:0}
.result.right{border-color:var(--right);background:var(--tint)}
.result.right .tag b,.result.right .tag em{color:var(--right)}
.result.later{border-style:dashed}
.tag em{font-style:normal;font-weight:600}
.words .results{grid-auto-flow:row;gap:6px}
.words .result{display:grid;grid-template-columns:132px minmax(0,1fr);gap:12px;padding:7px 11px;align-items:baseline}
.words .result .tag{margin:0}
.words .parts p.text,.words .parts pre{max-height:7.2em}
.parts{display:flex;flex-direction:column;gap:8px;min-width:0}
.parts p{margin:0;overflow-wrap:anywhere}
.parts p.text{max-height:13em;overflow-y:auto}
.query .parts p.text{font-size:16px;font-weight:500;line-height:1.42}
.result .parts p.text{font-size:14px;line-height:1.45}
.meta{font-size:11.5px;color:var(--soft);font-variant-numeric:tabular-nums}
pre{margin:0;background:var(--well);border:1px solid var(--rule);border-radius:7px;padding:8px 10px;overflow:auto;
max-height:16em;font:11.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;tab-size:4}
.query pre{background:var(--card)}
.parts img{display:block;max-width:100%;height:auto;border-radius:6px;background:#fff}
.parts img.photo{width:100%;max-width:190px}
.parts img.pixels{image-rendering:pixelated;width:100%;max-width:136px}
.parts img.page{width:100%;max-width:240px;border:1px solid var(--rule)}
.film{background:#15161b;padding:7px 4px;border-radius:5px;overflow-x:auto;max-width:190px;background-image:
repeating-linear-gradient(90deg,#f3f2ee66 0 4px,transparent 4px 10px),repeating-linear-gradient(90deg,#f3f2ee66 0 4px,
transparent 4px 10px);background-size:100% 3px;background-position:0 2px,0 calc(100% - 2px);
background-repeat:no-repeat}
.film img{border-radius:0;max-width:100%}
.wave{display:block;width:100%;max-width:220px}
.wave path{stroke:var(--accent);stroke-width:2.2;stroke-linecap:round;fill:none}
audio{width:100%;max-width:240px;height:34px}
details{border-bottom:1px solid var(--rule);padding:11px 0}
details[open]{padding-bottom:22px}
.differences{max-width:560px;padding:13px 6px 8px;margin-bottom:12px}
summary{cursor:pointer;font-weight:600}
summary+.note{margin-top:6px}
footer{color:var(--soft);font-size:13px;margin:56px 0 48px;padding-top:18px;border-top:1px solid var(--rule)}
@media(max-width:760px){
main,.hero>div{padding:0 15px}
.hero{padding:26px 0 20px}
.hero .top{flex-direction:column;align-items:flex-start;gap:16px}
.hero svg{width:100%;max-width:350px}
h1{font-size:29px}.lead{font-size:16px}h2{margin-top:42px;font-size:21px}
.facts{grid-template-columns:repeat(2,1fr);margin-top:20px}
th,td{padding:7px 9px}.tabs>label{padding:5px 10px}tbody th{white-space:normal;min-width:126px;max-width:150px}
.example{grid-template-columns:minmax(0,1fr)}
.example>.query{border-right:0;border-bottom:1px solid var(--rule);border-radius:13px 13px 0 0}
.results{scroll-snap-type:x proximity;grid-auto-columns:164px;padding:12px}
.words .results{grid-auto-columns:auto}
.words .result{display:block}.words .result .tag{margin:0 0 4px}
.result{scroll-snap-align:center}}
"""
