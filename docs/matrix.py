"""Write the tables of docs/reference/engines.md from the records of the conformance suite: `python docs/matrix.py`.

A record is what `python -m distmap.testing.engines NAME --json docs/engines/NAME.json` has written. Nothing on the page
between the two marks is written by hand; `tests/test_engines_page.py` holds that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distmap.testing.engines import CASES, ENGINES

HERE = Path(__file__).resolve().parent
PAGE = HERE / "reference" / "engines.md"
RECORDS = HERE / "engines"
BEGIN, END = "<!-- made by docs/matrix.py -->\n", "<!-- end of what is made -->\n"


def records() -> dict[str, dict[str, Any]]:
    """All records, in the order of the engines in the suite."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")}
    return {name: found[name] for name in ENGINES if name in found}


def tables(found: dict[str, dict[str, Any]]) -> str:
    """The matrix, the reasons of what is not kept, and with what each column was tried."""
    reasons: dict[str, int] = {}

    def cell(record: dict[str, Any], case: str) -> str:
        tried = record["cases"].get(case)
        if tried is None:
            return "not tried"
        if tried["state"] == "kept":
            return "yes"
        number = reasons.setdefault(tried["reason"], len(reasons) + 1)
        return f"{'no' if tried['state'] == 'not kept' else '–'} [{number}]"

    lines = ["| | " + " | ".join(record["title"] for record in found.values()) + " |"]
    lines.append("|---|" + "---|" * len(found))
    rows = ([cell(record, case.name) for record in found.values()] for case in CASES)
    lines += [f"| {case.feature} | {' | '.join(row)} |" for case, row in zip(CASES, rows, strict=True)]
    lines += ["", "`no`: it is not kept. `–`: the engine has nothing of the kind. Why:", ""]
    lines += [f"{number}. {reason[:1].upper()}{reason[1:]}." for reason, number in reasons.items()]
    lines += ["", "Tried with:", "", "| engine | version | Python | day |", "|---|---|---|---|"]
    lines += [f"| {one['title']} | {one['version']} | {one['python']} | {one['date']} |" for one in found.values()]
    if untried := [engine.title or name for name, engine in ENGINES.items() if name not in found]:
        lines += ["", f"Not tried yet: {', '.join(untried)}."]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables(records())}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
