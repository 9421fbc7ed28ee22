"""Run every benchmark and write one table of targets: `python benchmarks/run_all.py --quick`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "import_cost", "cold", "tiny", "latency", "many", "skew", "closure", "arrays", "real", "stream", "remote",
    "inner_tls", "checkpoint", "outage", "scheduler", "panel", "cards",
)  # fmt: skip


def row(script: str, target: dict[str, object]) -> str:
    value = target["value"]
    figure = "-" if value is None else f"{value:.3g}"
    met = "yes" if target["met"] else "**no**"
    return f"| {script} | {target['text']} | {figure} | {target['sign']} {target['limit']:g} | {met} |"


def summary(folder: Path, failed: list[str]) -> str:
    """A table of all targets, and the notes of every script, as Markdown."""
    lines = ["| script | figure | measured | target | met |", "|---|---|--:|--:|---|"]
    notes = []
    machine = None
    for script in SCRIPTS:
        path = folder / f"{script}.json"
        if not path.exists():
            continue
        data = json.loads(path.read_text())
        machine = data.get("machine", machine)
        lines += [row(script, target) for target in data.get("targets", [])]
        notes += [f"- {script}: {note}" for note in data.get("notes", [])]
    if machine:
        head = f"Python {machine['python']}, {machine['system']}, {machine['cores']} cores; ratios are of medians."
        lines.insert(0, head + "\n")
    lines += ["", *notes]
    lines += [f"- {script}: FAILED, see its output" for script in failed]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--plots", action="store_true", help="also draw a picture of each (needs matplotlib)")
    parser.add_argument("--out", default="benchmark-results", metavar="FOLDER", help="where results go")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, metavar="SCRIPT")
    args = parser.parse_args()
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for script in args.only:
        print(f"=== {script}", flush=True)
        (folder / f"{script}.json").unlink(missing_ok=True)
        command = [sys.executable, str(HERE / f"{script}.py"), "--json", str(folder / f"{script}.json")]
        command += ["--quick"] if args.quick else []
        command += ["--plot", str(folder / f"{script}.png")] if args.plots else []
        try:
            code = subprocess.run(command, timeout=1800, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            failed.append(script)
            print(f"=== {script} FAILED with code {code}", flush=True)
    text = summary(folder, failed)
    (folder / "summary.md").write_text(text)
    print(f"\n{text}\nwritten to {folder / 'summary.md'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
