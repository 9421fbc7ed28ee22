"""GPUs that are not there: programs that answer as those of the drivers do.

Owns the answers, in the form that the drivers' own programs have. Knows nothing of distmap.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

A, B = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
PARTS = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
NAME = "NVIDIA A100-SXM4-40GB"
#: `nvidia-smi -L` of a host with two GPUs, and of one whose second GPU is divided.
TWO = f"GPU 0: {NAME} (UUID: {A})\nGPU 1: {NAME} (UUID: {B})\n"
DIVIDED = TWO + "".join(f"  MIG 1g.5gb      Device  {n}: (UUID: {uuid})\n" for n, uuid in enumerate(PARTS))
#: `nvidia-smi --query-gpu=...`: the second tells nothing.
USE = f"{A}, 63, 10240, 40960\n{B}, [N/A], [N/A], [N/A]\n"
#: `rocm-smi --json` of a host with two.
AMD = """
WARNING: AMD GPU device(s) is/are in a low-power state.
{"card1": {"Card Series": "AMD Instinct MI250X", "GPU use (%)": "80", "VRAM Total Memory (B)": "1000",
           "VRAM Total Used Memory (B)": "250"},
 "card0": {"Card Series": "AMD Instinct MI250X", "GPU use (%)": "5", "VRAM Total Memory (B)": "1000",
           "VRAM Total Used Memory (B)": "10"}, "system": {"Driver version": "6.10"}}
"""


def fake(folder: Path, name: str, answers: Mapping[str, str], *, code: int = 0, first: str = "") -> Path:
    """A program of that name: prints the answer to its first argument; `first`: what it does before that, in Python."""
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time\n{first}\nanswers = {dict(answers)!r}\n"
        f"print(next((text for start, text in answers.items() if sys.argv[1].startswith(start)), ''), end='')\n"
        f"sys.exit({code})\n"
    )
    path.chmod(0o755)
    return path


def alone(folder: Path, *, also: str = "") -> dict[str, str]:
    """Variables of a process that finds the programs of the folder, and no GPU of this host: no library for it either.

    also: A package nvidia-ml-py, as the text of its module.
    """
    (folder / "pynvml.py").write_text(also or "raise ImportError('not for this test')\n")
    return {
        "PATH": f"{folder}{os.pathsep}{folder / 'nothing'}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])),
        "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
    }
