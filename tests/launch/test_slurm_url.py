"""The options of an address of Slurm."""

from __future__ import annotations

import pytest

from distmap.errors import ConnectError
from distmap.launch.slurm_url import SlurmOptions, parse_slurm


def test_options_are_ours_or_those_of_sbatch() -> None:
    """Ours are taken; every other one is an option of sbatch, with its value as it is, or without one."""
    found = parse_slurm(
        "slurm://?workers=20&cpus=8&gpus=2&time=1-12:00:00&partition=gpu&mem_per_cpu=4G&constraint=a%26b&exclusive"
        "&setup=module%20load%20x%0Asource%20y&setup=z&tag=big,fast&memory_limit=2GB&python=/opt/py"
    )
    assert found == SlurmOptions(
        20, 20, 8, 2, "1-12:00:00", "/opt/py", ("module load x", "source y", "z"),
        ("--tag=big", "--tag=fast", "--memory-limit=2GB"),
        ("--partition=gpu", "--mem-per-cpu=4G", "--constraint=a&b", "--exclusive"),
    )  # fmt: skip
    assert parse_slurm("slurm://") == parse_slurm("Slurm://?") == SlurmOptions()
    assert parse_slurm("slurm://?workers=0-50")[:2] == (0, 50)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("workers=x", "workers of slurm:// must be a whole number of at least 0; got 'x'"),
        ("workers=5-2", "workers of slurm:// must be a whole number of at least 5; got '2'"),
        ("cpus=0", "cpus of slurm:// must be a whole number of at least 1; got '0'"),
        ("gpus=-1", "gpus of slurm:// must be a whole number of at least 0"),
        ("time=soon", "time of slurm:// must be as Slurm takes it"),
        ("nodes=2", "nodes= is not an option of slurm://: each worker is a job of its own, on one node"),
        ("job_name=me", "job-name= is not an option of slurm://"),
        ("cpus_per_task=8", "cpus= says it"),
        ("X=1", "'X' is not an option of slurm://: it takes workers, cpus"),
        ("comment=a%0Ab", "comment of slurm:// has a line break"),
        ("token=dm1_secret", "holds a token"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: str, words: str) -> None:
    """One sentence says which option, and what it must be or why it is not to be chosen; no token is shown."""
    with pytest.raises(ConnectError) as info:
        parse_slurm(f"slurm://?{options}")
    assert words in str(info.value)
    assert "secret" not in str(info.value)


def test_a_host_is_none_of_slurm() -> None:
    """What looks like the address of a machine says how it should look."""
    with pytest.raises(ConnectError, match=r"slurm://\?workers=20"):
        parse_slurm("slurm://login1")
