"""The files in `examples/` are ones that the programs take which they are for, and start a worker as they say."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.optional import optional
from support.services import program

from distmap.core.limits import LIMITS
from distmap.worker.cli import build_parser

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
UNITS = sorted(path.name for path in EXAMPLES.glob("*.service"))


def run(*command: str | Path) -> str:
    """What a program says; it must not complain."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=15, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def options(words: list[str]) -> Any:
    """The options that a worker gets; an unknown one ends the test."""
    return build_parser().parse_args(words)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    """systemd understands every line; the worker understands its options, and has less time to drain than systemd."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=(\S+/distmap-worker) (.*)$", text, re.M)
    given = options(shlex.split(start[1]))
    assert given.token_file
    (seconds,) = map(int, re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M))
    assert given.drain + LIMITS.leave_seconds < seconds
    # What it starts is not on this machine.
    (tmp_path / name).write_text(text.replace(start[0], program("true")))
    assert run(program("systemd-analyze"), "verify", tmp_path / name) == ""


def test_the_linter_takes_the_dockerfile(needs: Any) -> None:
    """hadolint, which knows the rules for these files, has nothing to say."""
    assert run(program("hadolint"), "--no-color", EXAMPLES / "Dockerfile") == ""


def test_kubernetes_takes_the_manifest(needs: Any) -> None:
    """The manifest fits the schema of Kubernetes, to the last field; no secret is in it."""
    validate = optional("kubernetes_validate", needs)
    yaml = importlib.import_module("yaml")
    manifest = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    for version in ("1.30", "1.34"):
        validate.validate(manifest, version, strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate({**manifest, "spec": {**manifest["spec"], "replica": 2}}, "1.34", strict=True)
    assert manifest["kind"] == "Deployment"
    pod = manifest["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    given = options(worker["args"])
    assert given.drain + LIMITS.leave_seconds < pod["terminationGracePeriodSeconds"]
    assert given.slots == int(worker["resources"]["limits"]["cpu"])
    (token,) = (volume for volume in pod["volumes"] if "secret" in volume)
    # `read_private` takes a file of root that our group may read, and no other user.
    assert token["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    where = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}[token["name"]]
    assert {"name": "DISTMAP_TOKEN_FILE", "value": f"{where}/token"} in worker["env"]


def test_kubernetes_takes_the_job_of_a_pool(needs: Any) -> None:
    """The line at its head fills the manifest in: address, number and start; it fits the schema of Kubernetes."""
    validate = optional("kubernetes_validate", needs)
    yaml = importlib.import_module("yaml")
    text = (EXAMPLES / "kubernetes-job.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^#   fill = (.*)$", text, re.M)
    command = ast.literal_eval(line).replace("{url}", "wss://nb:1").replace("{n}", "7")
    done = subprocess.run(
        command, shell=True, cwd=EXAMPLES, env={**os.environ, "DISTMAP_LAUNCH": "ab-3"}, capture_output=True,
        text=True, timeout=10, check=True,
    )  # fmt: skip
    manifest = yaml.safe_load(done.stdout)
    for version in ("1.30", "1.34"):
        validate.validate(manifest, version, strict=True)
    assert (manifest["spec"]["parallelism"], manifest["spec"]["completions"]) == (7, 7)
    pod = manifest["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert options(worker["args"]).url == "wss://nb:1"
    assert {"name": "DISTMAP_LAUNCH", "value": "ab-3"} in worker["env"]
    # Besides these fields a pod is that of the Deployment.
    same = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    assert {key: pod[key] for key in same if key != "containers"} == {k: same[k] for k in same if k != "containers"}
