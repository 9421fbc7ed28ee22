"""The style sheet of everything that distmap shows in a notebook.

Owns colours and measures, nothing else: `--dm-...` are the colours, `.dm-block-...` the blocks of a timeline. The card
follows the theme: JupyterLab's variables come first, then VS Code's, then fixed colours. `!important` stands where
JupyterLab itself styles rendered HTML or widgets (`.jp-RenderedHTMLCommon`, `.jupyter-widgets`).
"""

from __future__ import annotations

STYLE = """<style>
.dm-card{--dm-brand:var(--jp-brand-color1,var(--vscode-progressBar-background,#1976d2));
--dm-success:var(--jp-success-color1,var(--vscode-charts-green,#388e3c));
--dm-warning:var(--jp-warn-color1,var(--vscode-charts-orange,#f57c00));
--dm-error:var(--jp-error-color1,var(--vscode-errorForeground,#d32f2f));
--dm-text:var(--jp-ui-font-color1,var(--vscode-foreground,#212121));
--dm-muted:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#757575));
--dm-border:var(--jp-border-color2,var(--vscode-widget-border,#e0e0e0));
--dm-shade:color-mix(in srgb,var(--dm-text) 9%,transparent);
--dm-pale-brand:color-mix(in srgb,var(--dm-brand) 42%,transparent);
--dm-pale-error:color-mix(in srgb,var(--dm-error) 42%,transparent);
position:relative;box-sizing:border-box;width:100%;max-width:860px;margin-top:4px;padding:10px 14px;
border:1px solid var(--dm-border);border-radius:8px;color:var(--dm-text);
font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);
font-variant-numeric:tabular-nums}
.jp-OutputArea-output .widget-box.dm-card{width:calc(100% - 20px);margin-top:4px}
.dm-card .widget-html,.dm-card .widget-html-content{line-height:1.5;margin:0;width:100%;min-height:0;height:auto}
.dm-card b{font-weight:600}
.dm-card code{padding:0 !important;background:none !important;color:inherit !important;
font:12px/1.5 var(--jp-code-font-family,ui-monospace,monospace) !important}
.dm-hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.dm-muted{color:var(--dm-muted)}
.dm-axis>[data-t]::before{content:attr(data-t)}
.dm-card .dm-top{display:flex;align-items:center;gap:8px;min-height:26px}
.dm-card .dm-top>.widget-html{flex:1}
.dm-head code{font-weight:600 !important}
.dm-card .dm-button{width:auto;height:auto;margin:0;padding:1px 12px;border:1px solid var(--dm-border);
border-radius:6px;background:none;box-shadow:none;color:var(--dm-text);
font:13px/1.6 var(--jp-ui-font-family,system-ui,sans-serif)}
.dm-card .dm-button:hover:enabled{background:var(--dm-shade)}
.dm-card .dm-button:disabled{opacity:.5}
.dm-card .dm-cancel{color:var(--dm-error)}
.dm-pill{display:inline-block;margin-left:4px;padding:0 10px;border-radius:10px;font-weight:600;font-size:12px;
line-height:20px;color:var(--dm-color);background:color-mix(in srgb,var(--dm-color) 14%,transparent)}
.dm-pill i{display:inline-block;width:6px;height:6px;margin-right:6px;border-radius:50%;background:currentColor;
vertical-align:1px}
.dm-running{--dm-color:var(--dm-brand)}
.dm-done,.dm-open{--dm-color:var(--dm-success)}
.dm-paused,.dm-cancelled,.dm-interrupted,.dm-closing{--dm-color:var(--dm-warning)}
.dm-failed{--dm-color:var(--dm-error)}
.dm-closed{--dm-color:var(--dm-muted)}
.dm-bar{display:flex;overflow:hidden;height:8px;margin:8px 0 4px;border-radius:4px;background:var(--dm-shade)}
.dm-part{display:block;height:100%}
.dm-part-done{background:var(--dm-brand)}
.dm-part-success{background:var(--dm-success)}
.dm-part-failed{background:var(--dm-error);min-width:2px}
.dm-part-running{background:var(--dm-pale-brand)}
.dm-part-unknown{width:100%;background:repeating-linear-gradient(-45deg,
var(--dm-pale-brand) 0 8px,var(--dm-shade) 8px 16px)}
.dm-counts{display:flex;justify-content:space-between;gap:16px;flex-wrap:wrap}
.dm-lanes,.dm-table{width:100% !important;margin:8px 0 0 !important;border-collapse:collapse;border:0 !important;
table-layout:fixed !important;font-size:12px !important;color:inherit}
.dm-lanes{border-top:1px solid var(--dm-border) !important}
.dm-card thead,.dm-card tr{border:0 !important;background:none !important}
.dm-card th,.dm-card td{padding:1px 0 1px 12px !important;border:0 !important;background:none !important;
text-align:left !important;vertical-align:middle !important;line-height:18px !important;white-space:nowrap;
overflow:hidden;text-overflow:ellipsis;max-width:none}
.dm-card th{padding-top:6px !important;color:var(--dm-muted);font-weight:400 !important;font-size:11px}
.dm-card tr>:first-child{padding-left:0 !important}
.dm-lanes tr>:nth-child(1){width:98px}
.dm-lanes tr>:nth-child(n+3){width:50px;text-align:right !important}
.dm-others,tr.dm-lost{color:var(--dm-muted)}
.dm-others>:first-child{overflow:visible !important}
.dm-axis{display:flex;justify-content:space-between}
.dm-axis i,.dm-legend{font-style:normal}
.dm-axis>i{flex:none}
.dm-legend{overflow:hidden;text-align:center}
.dm-legend i{margin:0 4px}
.dm-legend i::before{content:"";display:inline-block;width:9px;height:9px;margin-right:4px;border-radius:2px;
background:var(--dm-color);vertical-align:-1px}
.dm-legend i::after{content:attr(data-t)}
.dm-hint{display:block;color:var(--dm-muted);text-align:right}
.dm-timeline{display:block;width:100%;height:14px !important;border-radius:2px;
background:var(--dm-shade)}
.dm-block-done{--dm-color:var(--dm-brand)}
.dm-block-running{--dm-color:var(--dm-pale-brand)}
.dm-block-retried{--dm-color:var(--dm-warning)}
.dm-block-failed{--dm-color:var(--dm-error)}
.dm-block-lost{--dm-color:var(--dm-pale-error)}
.dm-timeline path{stroke:var(--dm-color);stroke-width:24}
.dm-rows-2{height:16px !important}
.dm-rows-2 path{stroke-width:10.5}
.dm-rows-3{height:19px !important}
.dm-rows-3 path{stroke-width:6.7}
.dm-rows-4{height:22px !important}
.dm-rows-4 path{stroke-width:4.8}
.dm-dot{display:inline-block;box-sizing:border-box;width:7px;height:7px;margin-right:7px;border-radius:50%;
border:2px solid var(--dm-muted);vertical-align:1px}
.dm-dot-busy,.dm-dot-running{border-color:var(--dm-brand);background:var(--dm-brand)}
.dm-dot-suspect,.dm-dot-reconnecting,.dm-dot-draining,.dm-dot-resting,.dm-dot-paused,.dm-dot-cancelled,.dm-dot-interrupted{border-color:var(--dm-warning)}
.dm-dot-done{border-color:var(--dm-success);background:var(--dm-success)}
.dm-dot-lost,.dm-dot-failed{border-color:var(--dm-error);background:var(--dm-error)}
.dm-card .jupyter-widget-Collapse,.dm-card .jupyter-widget-Collapse-contents{border:0;background:none;padding:0}
.dm-card .jupyter-widget-Collapse-header{border:0;background:none;padding:0;color:var(--dm-muted);font-size:13px;
line-height:1.5}
.dm-card>.jupyter-widget-Accordion .jupyter-widget-Collapse-header{font-weight:400}
.dm-card .jupyter-widget-Accordion{margin:6px 0 0;padding:6px 0 0;border-top:1px solid var(--dm-border)}
.dm-foot{margin-top:6px;padding-top:6px;border-top:1px solid var(--dm-border);color:var(--dm-muted)}
.dm-foot b{color:var(--dm-error)}
.dm-card summary{cursor:pointer}
.dm-issues td{white-space:pre-wrap !important;overflow-wrap:anywhere;vertical-align:top !important;
color:var(--dm-text)}
.dm-issues tr>:nth-child(1){width:132px}
.dm-issues tr>:nth-child(2){width:104px}
.dm-issues tr>:nth-child(3){width:52px}
.dm-card .dm-panel{margin-top:8px;padding-top:8px;border-top:1px solid var(--dm-border)}
.dm-card .dm-panel.dm-single{margin:0;padding:0;border:0}
.dm-calls td,.dm-calls th{text-align:right !important}
.dm-card .dm-calls tr>:first-child{text-align:left !important}
.dm-calls tr>:nth-child(n+2){width:12%}
.dm-card .dm-calls{margin-top:0 !important}
.dm-calls b{font-weight:400}
.dm-card .dm-error{color:var(--dm-error);font-weight:600}
.dm-call{margin-top:2px;color:var(--dm-muted);font-size:12px;line-height:18px;overflow-wrap:anywhere}
div.dm-call{padding-left:15px}
.dm-call code,.dm-call code *{color:var(--dm-text) !important}
.dm-facts{margin:4px 0 0 !important}
.dm-facts tr>:nth-child(1){width:104px}
.dm-workers,.dm-issues{margin:0 !important}
.dm-workers tr>:nth-child(3){width:9%}
.dm-workers tr>:nth-child(4){width:7%}
.dm-workers tr>:nth-child(5){width:9%}
.dm-workers tr>:nth-child(6){width:34%}
.dm-functions tr>:nth-child(n+2){width:11%}
.dm-functions tr>:nth-child(5){width:25%}
.dm-functions tr>:nth-child(6){width:16%}
.dm-hops td,.dm-checks td{white-space:normal !important;overflow-wrap:anywhere;vertical-align:top !important}
.dm-hops tr>:nth-child(1){width:132px}
.dm-checks tr>:nth-child(1){width:40%}
.dm-card .dm-command{display:block;margin:6px 0 2px;padding:5px 10px !important;border-radius:4px;
color:var(--dm-text) !important;background:var(--dm-shade) !important;user-select:all;white-space:pre-wrap;
overflow-wrap:anywhere}
.dm-card .dm-notes{margin:4px 0 2px !important;padding:0 0 0 20px !important;color:var(--dm-muted)}
.dm-card .dm-notes li{margin:2px 0 !important;overflow-wrap:anywhere}
.dm-card .dm-notes code{color:var(--dm-text) !important;background:var(--dm-shade) !important}
</style>"""
