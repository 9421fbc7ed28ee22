"""Run the benchmarks and write a table of targets: `python benchmarks/run_all.py --quick`.

With `--report` the figures, pictures and tables of `docs/performance.md` are made anew, too. A run that was ended goes
on with `--resume`: scripts whose results are in the folder are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
#: Those whose figures are on the page, in the order in which they run.
PAGE = (
    "cold", "latency", "small", "tiny", "dispatch", "slots", "many", "cpu", "skew", "stream", "payloads", "real",
    "arrays", "closure", "remote", "scheduler",
)  # fmt: skip
SCRIPTS = (*PAGE, "import_cost", "inner_tls", "checkpoint", "outage", "panel", "cards", "engines", "joblib_backend")
#: Seconds that a script may take.
LONGEST = 300


def row(script: str, target: dict[str, object]) -> str:
    value = target["value"]
    figure = "-" if value is None else f"{value:.3g}"
    verdict = target["verdict"]
    return (
        f"| {script} | {target['text']} | {figure} | {target['sign']} {target['limit']:g} | "
        f"{f'**{verdict}**' if verdict == 'NOT MET' else verdict} |"
    )


def summary(results: dict[str, dict], failed: list[str]) -> str:
    """A table of all targets, and the notes of every script, as Markdown."""
    lines = ["| script | figure | measured | target | verdict |", "|---|---|--:|--:|---|"]
    for script, data in results.items():
        lines += [row(script, target) for target in data["targets"]]
    lines.append("")
    for script, data in results.items():
        lines += [f"- {script}: {note}" for note in data["notes"]]
        lines.append(f"- {script}: {data['seconds']} s; other programs used {data['foreign']} cores")
    lines += [f"- {script}: FAILED, see its output" for script in failed]
    return "\n".join(lines) + "\n"


def run(script: str, path: Path, args: argparse.Namespace) -> bool:
    """Run one script; whether it ended well."""
    print(f"=== {script}", flush=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{script}.py"), "--json", str(path)]
    command += ["--quick"] if args.quick else []
    command += ["--without", *args.without] if args.without else []
    # A group of its own: what a script has started ends with it, and disturbs none that follow.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        code = -1
        print(f"=== {script} took more than {LONGEST} s", flush=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code:
        print(f"=== {script} FAILED with code {code}", flush=True)
    return not code


def same_kind(path: Path, args: argparse.Namespace) -> bool:
    """Whether the results of a run of this kind are there."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["quick"] == args.quick


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--report", action="store_true", help="what docs/performance.md shows; write it")
    parser.add_argument("--resume", action="store_true", help="keep the results that the folder has")
    parser.add_argument("--out", default="build/benchmarks", metavar="FOLDER", help="where results go")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, metavar="SCRIPT")
    parser.add_argument("--without", nargs="+", default=[], metavar="PEER", help="leave out: ray dask mpire joblib")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the script that runs ends too
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    began = time.monotonic()
    scripts = args.only or (PAGE if args.report else SCRIPTS)
    for script in scripts:
        path = folder / f"{script}.json"
        if not (args.resume and same_kind(path, args)) and not run(script, path, args):
            failed.append(script)
    results = {}
    for script in SCRIPTS:
        if (folder / f"{script}.json").exists():
            results[script] = json.loads((folder / f"{script}.json").read_text(encoding="utf-8"))
    text = summary(results, failed)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{time.monotonic() - began:.0f} s; written to {folder / 'summary.md'}")
    if args.report:
        import page

        page.write({script: results[script] for script in PAGE if script in results})
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
