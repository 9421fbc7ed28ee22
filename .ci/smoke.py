"""An installed distmap in a fresh environment: it comes with its files, and maps here and on a worker over loopback."""

import importlib.metadata
import subprocess
import sys
from importlib import resources
from pathlib import Path

import distmap
from distmap.testing.workers import WorkerProcess


def main() -> None:
    source = Path(__file__).resolve().parents[1]
    assert source not in Path(distmap.__file__).resolve().parents, "this is the source tree, not what is installed"
    assert importlib.metadata.version("distmap") == distmap.__version__
    assert resources.files("distmap").joinpath("py.typed").is_file()
    text = str(importlib.metadata.metadata("distmap").get_payload())
    assert "Pool" in text, "the description is not in the metadata"
    assert "<img" not in text, "a picture of the repository is shown by no package index"
    assert "](docs" not in text, "a link into the repository leads nowhere from a package index"
    files = importlib.metadata.files("distmap") or []
    assert any(file.name == "LICENSE" for file in files)

    command = Path(sys.executable).with_name("distmap-worker")
    shown = subprocess.run([command, "--help"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "--slots" in shown

    offset = 5
    with distmap.Pool(2) as pool:
        assert pool.map(lambda x: x * x + offset, range(100), progress=False) == [x * x + 5 for x in range(100)]
    with WorkerProcess("--port", "0", "--slots", "1") as worker, distmap.Pool(worker.url) as pool:
        assert pool.map(lambda x: x * x + offset, range(100), progress=False) == [x * x + 5 for x in range(100)]
    print(f"distmap {distmap.__version__} of {Path(distmap.__file__).parent} works")


if __name__ == "__main__":
    main()
