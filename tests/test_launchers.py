"""The launchers, as far as they run without a cluster: with stand-ins for its commands, and as what they parse to."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.runs import ROOT

SCRIPTS = ROOT / "scripts"


def stand_in(folder: Path, name: str, script: str) -> None:
    """A command on the path that does `script`, and notes its arguments, each in brackets, in `calls`."""
    file = folder / name
    note = f'printf "{name}" >> "{folder}/calls"; for a in "$@"; do printf " [%s]" "$a" >> "{folder}/calls"; done; '
    file.write_text(f'#!/usr/bin/env bash\n{note}echo >> "{folder}/calls"\n{script}\n')
    file.chmod(0o755)


def run(script: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments], env=env, cwd=folder, capture_output=True, text=True, check=False
    )


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


ARGUMENTS = ("train", "--config=configs/digits.py:a,b", "--workdir=/shared/a run")

SHOWN = " ".join(f"[{argument}]" for argument in ARGUMENTS)


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [
        (0, 0, False),
        (75, 0, True),
        (75, 40, True),
        (1, 0, False),
        (2, 0, False),
        (3, 0, True),
        (137, 9, True),
        (137, 10, False),
    ],
)
def test_slurm_queues_again_what_was_stopped_or_lost(tmp_path: Path, code: int, restarts: int, again: bool):
    stand_in(tmp_path, "srun", f"exit {code}")
    stand_in(tmp_path, "scontrol", "")
    environment = dict(SLURM_JOB_ID="77", DRIFTING="drifting", SLURM_RESTART_COUNT=str(restarts))
    done = run("slurm.sbatch", tmp_path, *ARGUMENTS, **environment)
    assert done.returncode == (0 if again else code)
    expected = [f"srun [--kill-on-bad-exit=0] [drifting] {SHOWN} [--stopped_code=75]"]
    assert calls(tmp_path) == expected + ["scontrol [requeue] [77]"] * again


def test_slurm_asks_for_the_signal_and_for_requeueing():
    options = [line for line in (SCRIPTS / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@120", "#SBATCH --open-mode=append"} <= set(options)


def test_tpu_pods_get_the_project_and_run_the_command_on_every_host(tmp_path: Path):
    stand_in(tmp_path, "gcloud", "")
    done = run("tpu_pod.sh", tmp_path, *ARGUMENTS, TPU="pod", ZONE="zone")
    assert done.returncode == 0, done.stderr
    copy, start = (tmp_path / "calls").read_text().split("gcloud ")[1:]
    assert copy.startswith("[compute] [tpus] [tpu-vm] [scp]") and "[pod:drifting.tar.gz]" in copy
    for text in (copy, start):
        assert "[--zone=zone]" in text and "[--worker=all]" in text
    command = start.split("--command=")[1]
    assert r"train --config=configs/digits.py:a\,b --workdir=/shared/a\ run --coordinator=auto" in command


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu_pod.sh"])
def test_without_a_command_they_say_how(tmp_path: Path, script: str):
    done = run(script, tmp_path, TPU="pod", ZONE="zone", SLURM_JOB_ID="1")
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and calls(tmp_path) == []


def test_the_job_set_says_the_same_number_of_nodes_everywhere():
    job = yaml.safe_load((SCRIPTS / "jobset.yaml").read_text())
    (worker,) = job["spec"]["replicatedJobs"]
    spec = worker["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert str(spec["parallelism"]) == str(spec["completions"]) == env["JAX_NUM_PROCESSES"]
    first, port = env["JAX_COORDINATOR_ADDRESS"].split(":")
    assert first == f"{job['metadata']['name']}-{worker['name']}-0-0.{job['metadata']['name']}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert "--stopped_code=75" in container["args"]  # or an eviction would count as the end of the job
    assert "JAX_PROCESS_ID" in env and container["command"] == ["drifting", "train"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
