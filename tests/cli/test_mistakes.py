"""What people type wrong: each ends in one line that names what was typed and what would be right, with code 2 or 1.

`{tiny}` stands for the smallest experiment, `{run}` for a run of it, `{here}` for an empty folder to write to.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.config.registered import ENCODER_OPTIONS, REGISTERED_NAMES
from tests.support.runs import ROOT, TINY, finished_run

TRAIN = "train --config={tiny} --workdir={here}/new --config."

SETTINGS = [
    ("loss.widhts=0.3", "loss.widhts='0.3': there is no such key; did you mean loss.widths?"),
    ("los.widths=0.3", "los: there is no such key; did you mean loss?"),
    ("loss=3", "loss='3': a section; set its keys, for example loss.objective=..."),
    ("loss.widths.x=3", "loss.widths is a setting and has no keys of its own"),
    ("loss.widths=(1/3,)", "loss.widths='(1/3,)': expected a tuple of float, for example (0.2,)"),
    ("loss.widths=", "loss.widths='': expected a tuple of float, for example (0.2,)"),
    ("loss.widths=0.1;0.2", "loss.widths='0.1;0.2': expected a tuple of float"),
    ("loss.widths=0.1,,0.2", "loss.widths='0.1,,0.2': expected a tuple of float"),
    ("loss.widths=()", "loss.widths=(): give at least one kernel width, for example (0.3,)"),
    ("loss.widths=-0.1", "loss.widths=(-0.1,): kernel widths are positive"),
    ("loss.kernel=gausian", "loss.kernel='gausian': use one of gaussian, .*did you mean 'gaussian'"),
    ("loss.objective=logkde", "loss.objective='logkde': use one of log_kde, .*did you mean 'log_kde'"),
    ("loss.generated=1", "loss.generated=1: use 2 or more"),
    ("loss.positives=9", "loss.positives=9: exceeds bank.per_class=8: draw fewer or keep more"),
    ("train.steps=abc", "train.steps='abc': expected int, for example 2"),
    ("train.steps=1.5", "train.steps='1.5': expected int, for example 2"),
    ("train.steps=1e-3", "train.steps='1e-3': expected int, for example 2"),
    ("train.steps=-5", "train.steps=-5: use 1 or more"),
    ("train.steps", "--config.train.steps: give a value, --config.train.steps=VALUE"),
    ("train.steps --seed=3", "--config.train.steps: give a value"),
    ("train.steps[0]=3", "train.steps[0]='3': there is no such key; did you mean train.steps?"),
    ("=3", "--config.=3: names no setting; type --config.SECTION.KEY=VALUE"),
    (".steps=3", "--config..steps=3: names no setting; type --config"),
    ("train.=3", "--config.train.=3: names no setting; type --config"),
    (
        "features.mae.weigths=3",
        "features.mae.weigths='3': there is no such key; did you mean features.options.mae.weights",
    ),
    (
        "features.options.mae.weigths=3",
        "features.options.mae.weigths=3: there is no such key; did you mean features.opti",
    ),
    (
        "features.options.dinov2.layrs=3",
        "dinov2.layrs=3: there is no such key; did you mean features.options.dinov2.laye",
    ),
    ("features.options.mae[0].size=3", "--config.features.options.mae[0].size: there is no such setting"),
    ("features.options.items.size=3", "--config.features.options.items.size: there is no such setting"),
    ("train.micro_batch=7", "train.micro_batch=7: must divide loss.labels * loss.generated=12, or be 0"),
    ("train.seed=-1", "train.seed=-1: a seed lies in"),
    ("train.ema_decays=1.5", r"train.ema_decays=\(1.5,\): decays lie in \[0, 1\)"),
    ("train.tensorboard=maybe", "train.tensorboard='maybe': expected bool, for example True"),
    ("train.wandb_project=me", "train.wandb_project.*: wandb is not installed; pip install wandb, or leave it"),
    ("model.patch_size=3", "model.patch_size=3: must divide the 8x8 samples: use one of 1, 2, 4, 8"),
    ("model.patch_size=None", "model.patch_size='None': expected int, for example 2"),
    ("model.num_heads=3", "model.num_heads=3: must divide model.hidden_size=16"),
    ("model.preset=M", "model.preset='M': use one of S, B, L, XL"),
    (
        "model.preset=XL",
        "model.hidden_size=16: model.preset='XL' sets it: set model.hidden_size=None, .*model.preset=None",
    ),
    ("model.name=dti", r"model.name='dti': use one of dit, mlp \(did you mean 'dit'\?\)"),
    ("model.dtype=float16", r"model.dtype='float16': use one of float32, bfloat16 \(did you mean 'bfloat16'\?\)"),
    ("optimizer.decay=linaer", "optimizer.decay='linaer': use one of constant, cosine"),
    ("optimizer.learning_rate=fast", "optimizer.learning_rate='fast': expected float, for example 0.2"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan: use a positive number"),
    ("guidance.alpha_max=0.5", "guidance.alpha_max=0.5: must be at least guidance.alpha_min=1.0"),
    ("features.encoders=may", r"features.encoders='may': use one of mae, .*\(did you mean 'mae'\?\)"),
    (
        "features.encoders=mae",
        "features.options.mae.weights=None: give a folder .*or leave it out of features.encoders",
    ),
    (
        "features.options.mae.weights=x --config.features.encoders=mae",
        "features.options.mae.weights='x': there is no such",
    ),
    *(
        (
            f"features.options.{name}.{options[0]}=x",
            rf"features.options.{name}.{options[0]}='x': no loss reads it, .*{name}",
        )
        for name, options in ENCODER_OPTIONS.items()
    ),
    ("features.options.mea.size=3", r"features.options='mea': use one of mae, .*did you mean 'mae'"),
    ("data.name=digts", "data.name='digts': use one of digits, array, .*did you mean 'digits'"),
    ("data.name=mnist", "data.path=None: source 'mnist' needs data.path: give it"),
    ("data.path=x", "data.path='x': source 'digits' takes no path: set data.path=None"),
    ("data.name=mnist --config.data.path={here}/nope", "data.path='.*/nope': there is no such folder"),
    (
        "data.name=imagefolder --config.data.path={here}/empty --config.data.image_size=8",
        "data.path='.*' has no class folders",
    ),
    ("data.name=array --config.data.path={here}/no.npz", "data.path='.*no.npz': .*No such file"),
    ("data.name=synthetic --config.data.image_size=-1", "data.image_size=-1: use 1 or more"),
    ("data.resident=gpu", "data.resident='gpu': use one of device, host"),
    ("mesh.fsdp=3", "mesh.fsdp=3: must divide the .* device"),
    ("mesh.data=3", "mesh.data=3, mesh.fsdp=1: their product must be the .*; mesh.data=0 takes what mesh.fsdp leaves"),
    ("eval.reference=http://b/r.npz", "eval.reference='http://b/r.npz': is an address, .*: mount or copy"),
    ("eval.real_images=http://b/r", "eval.real_images='http://b/r': is an address, .*: mount or copy"),
    (
        "data.name=array --config.data.path=http://b/d.npz",
        "data.path='http://b/d.npz': is an address, .*: mount or copy",
    ),
    (
        "data.name=imagefolder --config.data.path=http://b/d --config.data.image_size=8",
        "data.path='http://b/d': is an address",
    ),
    ("train.steps=2147483648", "train.steps=2147483648: whole numbers have 32 bits: use less than"),
    ("train.stuck_after=-1", r"train.stuck_after=-1: use 0 \(never\) or more seconds"),
    ("train.batch_size=0", "train.batch_size=0: use 1 or more"),
    ("bank.push=0 --config.bank.per_class=0", "bank.push=0: use 1 or more"),
    ("bank.unconditional=-5 --config.bank.per_class=0", "bank.unconditional=-5: use 0 or more"),
    ("model.noise_dim=0", "model.noise_dim=0: use 1 or more"),
    ("data.name=synthetic --config.data.classes=1e12", "data.classes=1000000000000: use 10,000,000 or less"),
    ("data.name=synthetic --config.data.image_size=1e8", "data.image_size=100000000: use 65,536 or less"),
    ("data.name=array --config.data.path={here}/odd/pipe", "data.path='{here}/odd/pipe': is no regular file"),
    ("data.path=~nobodyelse/x", "--config.data.path=~nobodyelse/x: there is no user nobodyelse; give"),
    ("loss.widths=1e400", "loss.widths='1e400': is too large a number: the limits are 1e-307 and 1e308"),
    ("loss.widths=0.1,1e-400", "loss.widths='0.1,1e-400': is too small a number"),
    ("train.steps=1e400", "train.steps='1e400': is too large a number"),
    ("model.options.x=3", "model.options.x=3: model.name='dit' takes no options: leave it out"),
    (
        "model.name=mlp --config.model.depth=2 --config.model.options.y=z",
        "model.options.y='z': model.name='mlp' takes no options",
    ),
    ("eval.encoder=vgg", "eval.encoder=vgg: use one of inception, pixels, "),
    ("eval.encoder=mae:nope", "eval.encoder='mae:nope': there are no such weights; give a folder"),
    ("eval.reference=nope.npz", "eval.reference='nope.npz': there is no such file; `drifting reference` makes one"),
    ("eval.real_images=nope", "eval.real_images='nope': goes with the statistics of real images: set eval.reference"),
    (
        "eval.real_images=nope --config.eval.reference={here}/odd/empty",
        "eval.real_images='nope': there is no such file; give a folder of images or an .npz",
    ),
    ("eval.neighbours=40", "eval.neighbours=40: must be less than eval.num_samples=40, the images"),
    (
        "data.name=array --config.data.path={here}/odd/heldout.npz",
        "data.path='.*/odd/heldout.npz': label_heldout has class 2, which no training image has: remove it",
    ),
    ("eval.ema_decay=0.5", "eval.ema_decay=0.5: is not kept: use one of train.ema_decays"),
]

COMMANDS = [
    ("trian", "trian: there is no such command; did you mean train?"),
    ("study crul", "study crul: there is no such command; did you mean study curl?"),
    ("hub pull", "hub pull: there is no such command; did you mean hub push?"),
    ("help hub pull", "hub pull: there is no such command; did you mean hub push?"),
    ("plan --config={tiny}", "--device: give the kind of device, such as h100, .*; --device=. lists all"),
    ("sample --workdir={run} --classes=-1", "--classes=-1: use names or whole numbers from 0 to 9$"),
    ("hup push", "hup: there is no such command;"),
    ("--workdir=x", "--workdir=x: there is no such command; `drifting --help` lists all"),
    ("help loss.neighbour", "loss.neighbour: there is no such .*did you mean loss.neighbours"),
    ("help a b", "'b': is one argument too many; usage: drifting help"),
    ("configs digits", "'digits': is not a flag; did you mean drifting config digits?"),
    ("configs digitz", "'digitz': is not a flag; flags are given as --flag=value"),
    ("version", "version: there is no such command; did you mean drifting --version?"),
    ("help loss.widths --markdown", "--markdown: prints all settings; leave it out, or leave loss.widths out"),
    ("config digits --config=mnist", "--config=mnist: digits is given, too; leave one of the two out"),
    ("config digits --config.bank.push=0", "bank.push=0: use 1 or more"),
    ("config studies/curl --config.study.extent=-1", "study.extent=-1.0: use a positive number"),
    ("config --config=", "--config: give a value, the experiment"),
    ("train --config={tiny} --workdir={here}/new --loss.widths=1", "did you mean --config.loss.widths?"),
    ("sample --workdir={run} --alpha=1e400", "--alpha=1e400: is too large a number: the limits are"),
    ("sample --workdir={run} --alpha 1e400", "--alpha=1e400: is too large a number: the limits are"),
    ("evaluate --workdir={run} --alpha=1,1e-999", "--alpha=1e-999: is too small a number: the limits are"),
    ("evaluate --workdir={run} --num=8 --neighbours=500", "--neighbours=500: must be less than the 8 images that are"),
    ("evaluate --workdir={run} --num=3", "--num=3: must exceed eval.neighbours=3"),
    ("study curl --out={run}", "--out={run}: holds something else (config.json); give a new folder"),
    ("sample --workdir={run} --num=4 --out={here}/odd/heldout.npz", "heldout.npz: is there and not known to be these"),
    ("sample --workdir={run} --num=4 --out={here}/odd", "--out={here}/odd: is there and not known to be these images"),
    ("export --workdir={run} --out={run}", "--out={run}: {run} exists and is no artifact"),
    ("config", "--config: give the experiment; `drifting configs` lists"),
    ("config digit", r"--config=digit: there is no such file \(did you mean digits\?\)"),
    ("config digits:big", "--config=digits:big: variant 'big': use tiny"),
    ("config {here}/odd/pipe", "--config={here}/odd/pipe: is no regular file; give a Python file"),
    ("config {here}/odd/folder.py", "--config={here}/odd/folder.py: is a folder; give a Python file"),
    ("config {here}/odd/exits.py", r"exits.py, line 2: calls for exit\(3\); return the settings instead"),
    ("config s3://bucket/mine.py", "--config=s3://bucket/mine.py: is an address, .*copy it here"),
    ("config nowhere", "--config=nowhere: there is no such file; `drifting configs` lists the experiments"),
    ("config mnist:logkde", "--config=mnist:logkde: variant 'logkde': use logkde_gauss or "),
    ("train --workdir={here}/new", "--config: give the experiment; `drifting configs` lists"),
    ("train {tiny} --workdir={here}/new", "'{tiny}': is not a flag; did you mean --config={tiny}?"),
    ("train digits:tiny", "'digits:tiny': is not a flag; did you mean --config=digits:tiny?"),
    ("train --config={tiny}", "--workdir: give the run's folder"),
    (
        "train --config={tiny} --workdir={here}/odd/damaged",
        "--workdir={here}/odd/damaged: metrics.jsonl: line 1 is not a metrics line; repair it, or move the file away",
    ),
    ("train --config={tiny} --workdir={here}/new extra", "'extra': is not a flag; did you mean --"),
    ("train --config={tiny} --wrokdir={here}/new", "--wrokdir: there is no such flag; did you mean --workdir?"),
    ("train --config={tiny} --workdir", "--workdir: give a value (where the run is written"),
    ("train --config=configs/digit.py --workdir={here}/new", "--config=configs/digit.py: there is no such file"),
    (
        "train --config=digits --workdir={here}/new",
        "features.options.mae.weights='runs/mae_digits/encoder': there is no such folder .*make it: "
        "drifting pretrain --config=.*mae_digits.py --workdir=runs/mae_digits$",
    ),
    (
        "train --config=mae_digits --workdir={here}/new",
        "--config=mae_digits: holds settings of `drifting pretrain`; give them",
    ),
    (
        "train --config=sweeps/kernel_width --workdir={here}/new",
        "--config=sweeps/kernel_width: is a sweep; give it to `drifting sweep`",
    ),
    (
        "train --config=mnist:tiny --workdir={here}/new --config.data.name=mnist",
        "data.path=None, data.image_size=8, data.channels=1, data.classes=4: source 'mnist' needs "
        "data.path: give it; and takes no image_size, channels, classes: set data.image_size=None, "
        "data.channels=None, data.classes=None",
    ),
    (
        "train --config={tiny} --workdir={run} --config.loss.labels=2",
        "--workdir={run}: holds a run with other settings",
    ),
    (
        "train --config={tiny} --workdir={here}/new --stopped_code=300",
        "--stopped_code=300: expected an integer in the range",
    ),
    (
        "pretrain --config={tiny} --workdir={here}/new",
        "--config={tiny}: holds settings of `drifting train`; give them",
    ),
    ("cache --config={tiny} --workdir={here}/new", "--config={tiny}: holds settings of `drifting train`; give them"),
    ("cache --verify --config=x.py", "--config: --verify takes no settings; leave it out"),
    ("sweep --workdir={here}/new", "--config: give the sweep's file, such as sweeps/kernel_width"),
    (
        "sweep --config=digits --workdir={here}/new",
        "--config=digits: is one experiment and no sweep; give it to `drifting train`",
    ),
    (
        "sweep --config=sweeps/kernel_width --workdir={here}/new --config.loss.widths=1",
        "--config.loss.widths: the cells differ in it",
    ),
    (
        "sweep --config=sweeps/kernel_width --workdir={here}/new --config.train.stps=1",
        "train.stps='1': there is no such key; did you mean train.steps?",
    ),
    (
        "sweep --config=sweeps/kernel_width --workdir={here}/new",
        "features.options.mae.weights='runs/mae_digits/encoder': there is no such folder",
    ),
    ("plan --config={tiny} --device=h800", r"--device=h800: use one of .*did you mean 'h200'"),
    (
        "plan --config={tiny} --device=h100 --mesh=8",
        "--mesh=8: give its axes as data=N,fsdp=M, for example data=8,fsdp=1",
    ),
    ("sample", "--workdir or --weights: give one, a run's folder or published weights"),
    ("sample {run}", "'{run}': is not a flag; did you mean --workdir={run}?"),
    ("sample {here}", "'{here}': is not a flag; did you mean --weights={here}?"),
    ("sample hf://a/b", "'hf://a/b': is not a flag; did you mean --weights=hf://a/b?"),
    ("sample --workdir={here}/nope", "--workdir={here}/nope: holds no run"),
    ("sample --workdir={run} --clases=1", "--clases: there is no such flag; did you mean --classes?"),
    ("sample --workdir={run} --classes=x", "--classes=x: use names or whole numbers from 0 to 9"),
    ("sample --workdir={run} --ema=0.5", "--ema=0.5: the run does not keep it, use one of 0.9, 0.99"),
    ("sample --workdir={run} --alpha=-1 --out={here}/x.png", "--alpha=-1: use a positive guidance scale"),
    ("sample --workdir={run} --out={here}/x.jpg", "--out={here}/x.jpg: write a grid"),
    ("sample --workdir={run} --weights=x", "--workdir or --weights: give one"),
    ("sample --weights={here}/README.md", "--weights={here}/README.md: is no weights file"),
    ("import --weights={here}/README.md --out={here}/new", "--weights={here}/README.md: is no weights file"),
    ("import --out={here}/new", "--weights: give a folder of weights, or hf://OWNER/REPO"),
    ("evaluate", "--workdir: give the run's folder, or --weights or --images"),
    ("evaluate --workdir={run} --images=x", "--images=x: --workdir says what to score, leave one out"),
    ("evaluate --workdir={run} --alpha=a", "--alpha=a: expected numbers with commas between them, e.g. 1.0,1.5"),
    ("evaluate --images={here}", "--reference: give statistics of real images"),
    ("evaluate --workdir={run} --reference={here}/no.npz", "--reference={here}/no.npz: there is no such file"),
    ("compare {run}", "compare: give two runs or weights, drifting compare A B"),
    ("compare {run} {run} {run}", "'{run}': is one argument too many; usage: drifting compare A B"),
    ("compare {run} {run} --out={here}/new.npz", "--out={here}/new.npz: give the name of a page, one that ends in"),
    ("train --config=digits:tiny --workdir={here}/README.md/x", "--workdir={here}/README.md/x: cannot be written, "),
    ("pretrain --config=mae_digits:tiny --workdir=/proc/x", "--workdir=/proc/x: the folder /proc cannot be written ("),
    ("report --workdir={run} --out={here}/new.py", "--out={here}/new.py: give the name of a page"),
    ("evaluate --workdir={run} --alpha=1,,2", "--alpha: nothing between two commas; give numbers such as 1.0,1.5"),
    ("export --workdir={run}", "--out: give the folder to write"),
    ("export --workdir={run} --out={here}/new --format=zip", "--format=zip: use one of safetensors, released"),
    ("replay --workdir={run}", "--step: give the number of the step"),
    ("replay --workdir={run} --step=121", "--step=121: the run ends with step 120; ask for an earlier step"),
    ("replay --workdir={run} --step=3 --import={here}/no.py", "--import={here}/no.py: there is no such file"),
    ("report", "--workdir: give a run's or a sweep's folder"),
    ("report {run}", "'{run}': is not a flag; did you mean --workdir={run}?"),
    ("hub push --weights={here}", "--repo: give the repository, OWNER/NAME"),
    ("study curl", "--out: give the folder to write"),
    (
        "study curl --out={here}/new --config.study.kernel=x",
        "study.kernel='x': there is no such key; did you mean study.kernels?",
    ),
    ("study curl --out={here}/new --config.study.kernels=x", "study.kernels='x': use one of gaussian, laplace"),
    ("study diagnose --run={here} --out={here}/new", "--run={here}: holds no run"),
    ("reference --config={tiny}", "--out: give the file to write"),
    ("reference --out={here}/new.npz", "--config: give the experiment, or --images; `drifting configs`"),
    ("reference --config={tiny} --out={here}/r.npz --split=tset", "--split=tset: use one of train, heldout"),
    ("cache --verify --workdir={run}", "--workdir={run}: holds no cache of latents; give a folder that"),
    ("sample --workdir={run} --labels={here}/no.txt --out={here}/x.npz", "--labels={here}/no.txt: there is no such"),
    ("sample --workdir={run} --labels={here}/odd/empty --out={here}/x.npz", "--labels={here}/odd/empty: is empty: "),
    ("sample --workdir={run} --labels={here}/odd/pipe --out={here}/x.npz", "odd/pipe: is no regular file"),
    ("sample --workdir={run} --columns=100000000", "--columns=100000000: expected an integer in the range"),
    ("sample --workdir={run} --process_index=2 --out={here}/x.npz", "--process_index=2: must be 0 or more and below"),
    ("evaluate --workdir={run} --process_index=2", "--process_index=2: must be 0 or more and below"),
    ("cache --config={tiny} --workdir=x --process_count=2", "--config={tiny}: holds settings of `drifting train`"),
    (
        "train --config={tiny} --workdir={run} --config.loss.positives=9 --config.bank.per_class=300",
        "--workdir={run}: holds a run with other settings",
    ),
    ("reference --config={tiny} --out={here}/r.npz --encoder=vgg", "--encoder=vgg: use one of"),
]  # fmt: skip

MISTAKES = [(TRAIN + setting, words) for setting, words in SETTINGS] + COMMANDS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def test_there_are_enough():
    assert len({line for line, _ in MISTAKES}) == len(MISTAKES) >= 100


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line.removeprefix(TRAIN) for line, _ in MISTAKES])
def test_a_mistake(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: str,
):
    (tmp_path / "README.md").write_text("# no weights\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / "folder.py").mkdir(parents=True)
    (tmp_path / "odd" / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "odd" / "empty").touch()
    os.mkfifo(tmp_path / "odd" / "pipe")
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "odd" / "heldout", image=images, label=labels, image_heldout=images, label_heldout=labels * 2)
    (tmp_path / "odd" / "damaged").mkdir()
    shutil.copy(run / "config.json", tmp_path / "odd" / "damaged")
    (tmp_path / "odd" / "damaged" / "metrics.jsonl").write_bytes(b"\x00" * 99)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setitem(sys.modules, "wandb", None)
    places = {"{tiny}": str(TINY), "{run}": str(run), "{here}": str(tmp_path)}
    for name, place in places.items():
        line, words = line.replace(name, place), words.replace(name, place)
    code = main(line.split())
    captured = capsys.readouterr()
    assert code in (1, 2) and captured.out == "", captured
    (told,) = captured.err.splitlines()
    told = told.removeprefix("drifting: error: ")
    assert words in told or re.search(words, told), told
    # nothing is begun
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "elsewhere", "empty", "odd"]
    assert not list((tmp_path / "elsewhere").iterdir())


OF_FILES = (
    "data.path",
    "eval.reference",
    "eval.real_images",
    "eval.encoder=mae:nope",
    "features.options.mae.weights=x",
)
OF_DATA_AND_DEVICES = ("model.patch_size=3", "mesh.", "train.wandb_project")


def test_settings_that_no_training_takes_are_not_printed(capsys: pytest.CaptureFixture[str]):
    """Over all mistakes in settings, but for those of files, data, devices and packages: the line is that of train."""
    told = 0
    for setting, words in SETTINGS:
        if any(mark in setting for mark in OF_FILES) or setting.startswith(OF_DATA_AND_DEVICES):
            continue
        told += 1
        assert main(["config", str(TINY), *f"--config.{setting}".split()]) == 2, setting
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        line = line.removeprefix("drifting: error: ")
        assert captured.out == "" and (words in line or re.search(words, line)), line
    assert told > 60


def test_settings_of_a_study_that_it_does_not_take_are_not_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "studies/curl", "--config.study.kernels=x"]) == 2
    assert capsys.readouterr().err.startswith("drifting: error: study.kernels='x': use one of gaussian, laplace")


QUICK = [
    "train --config={tiny} --workdir=x --config.train.steps=-5",
    "train --config=digits --workdir=x",
    "train --config={tiny} --workdir=x --config.model.dtype=float16",
    "sweep --config=sweeps/kernel_width --workdir=x --config.loss.widths=1",
    "sample runs/demo",
    "config mnist:logkde",
    "train --config={tiny} --workdir=x --config.data.name=digts",
    "train --config={tiny} --workdir=x --config.data.name=mnist",
    "train --config={tiny} --workdir=x --config.model.depth=0",
    "plan --config={tiny} --device=h100 --config.data.path=x",
    "sample --workdir=x",
    "sample --workdir=x --out=",
    "evaluate --workdir=x",
    "evaluate --workdir=x --alpha=1e400",
    "replay --workdir=x --step=1",
    "help loss.widths --markdown",
    "train --config={tiny} --workdir=/dev/null",
    "pretrain --config=mae_digits --workdir=/dev/null",
    "cache --config=data/imagenet --workdir=/dev/null",
    "train --config={tiny} --workdir=x --config.model.preset=M",
    "train --config={tiny} --workdir=x --config.features.options.mae.weigths=3",
    "train --config={tiny} --workdir=x --config.features.options.mea.size=3",
    "train --config={tiny} --workdir=x --config.features.mae.weigths=3",
    "train --config={tiny} --workdir=x --config.eval.encoder=inceptoin",
    "pretrain --config=mae_digits --workdir=x --config.optimizer.name=moun",
    "plan --config={tiny}",
    "hub pull",
    "plan --config={tiny} --device=h100 --config.loss.kernel=gausian",
    "sweep --config=sweeps/kernel_width --workdir=x --config.loss.kernel=gausian",
    *(f"train --config={{tiny}} --workdir=x --config.{key}=zzz" for key in REGISTERED_NAMES),
    *(f"config digits:tiny --config.{key}=zzz" for key in REGISTERED_NAMES),
    "evaluate --workdir=x --encoder=inceptoin",
    "compare a b --encoder=inceptoin",
    "reference --config={tiny} --out=x.npz --encoder=inceptoin",
    "sample --workdir=x --alpha=-1",
    "sample --workdir=x --alpha=nan",
    "compare a b --alpha=0",
    "evaluate --workdir=x --alpha=1,-1",
    "evaluate --weights=x --alpha=1,nan",
    "help foo",
    "help loss.neigbours",
    "help neighbors",
    "help features.options.mae.weigths",
    "config nowhere --help",
]
"""Of each kind of mistake one that can be told without JAX, whose import takes most of the time."""


LOOKED_UP = [
    "configs",
    "config digits:tiny",
    "config digits --config.train.seed=5",
    "help loss.kernel",
    "help model",
    "help loss.widths",
    "help train",
    "help eval.alpha",
    "help study curl",
]


def test_what_needs_no_jax_does_not_wait_for_it(tmp_path: Path):
    """One process for all: a module that one of them imports stays."""
    lines = [line.replace("{tiny}", str(TINY)).split() for line in QUICK] + [line.split() for line in LOOKED_UP]
    code = (
        "import contextlib, io, json, sys\n"
        "from drifting.cli.commands import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    codes = [main(line) for line in {lines!r}]\n"
        "heavy = [name for name in ('jax', 'flax', 'orbax', 'grain') if name in sys.modules]\n"
        "print(json.dumps([codes, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert json.loads(done.stdout) == [[2] * len(QUICK) + [0] * len(LOOKED_UP), []]
    assert len(done.stderr.splitlines()) == len(QUICK)


# --- files of settings ------------------------------------------------------------------------------------------------

STARTS = {"train": "train_config", "pretrain": "pretrain_config", "cache": "cache_config"}

FILES = [
    ("get_config = train_config()", "get_config is a ConfigDict and no function; write def get_config\\(\\), which"),
    (
        "def get_config(a, b, c): pass",
        r"get_config\(a, b, c\): may have one argument without a default, which is what fol",
    ),
    ("def get_config(*, name): pass", r"get_config\(\*, name\): may have one argument without a default"),
    (
        "def get_config(name): pass",
        r"get_config\(name\): give a variant behind a colon, or get_config a default for it",
    ),
    ("def get_config(): pass", r"get_config\(\) returned None; return the ConfigDict"),
    ("def get_config():\n  c = train_config()\n  c.train = 5", "train=5: expected a section of keys, not a value"),
    (
        "def get_config():\n  c = train_config()\n  few(c.loss)\n\ndef few(loss): loss.update(labels='few')",
        "loss.labels='few': expected int, for example 2",
    ),
    (
        "def get_config():\n  c = train_config()\n  c.features.options.mae = dict(size=3)\n"
        "  c.features.options.mae.size = 'x'",
        "features.options.mae.size='x': expected int, such as 3",
    ),
    ("def get_config():\n  sum(3)", "TypeError: 'int' object is not iterable"),
]


@pytest.mark.parametrize(("text", "words"), FILES, ids=[text[:40] for text, _ in FILES])
def test_a_file_of_settings_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str):
    file = tmp_path / "mine.py"
    file.write_text(f"from drifting.config import train_config\n{text}\n")
    assert main(["config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"drifting: error: --config={file}(, line \d+)?: {words}", line), line


@pytest.mark.parametrize("command", STARTS)
def test_a_file_of_settings_that_assigns_another_type(tmp_path: Path, command: str):
    """Over all settings: the line is that of the settings themselves, with the line of the file."""
    from drifting.cli.settings import load_settings
    from drifting.config.meanings import COMMAND_SETTINGS
    from drifting.config.schema import to_dict
    from drifting.errors import ConfigError

    file = tmp_path / "mine.py"
    start = f"from drifting.config import {STARTS[command]} as start\n\ndef get_config(key):\n    config = start()\n"
    file.write_text(
        f"{start}    section, key = key.split('.')\n    config[section][key] = b'five'\n    return config\n"
    )
    keys = [f"{section}.{key}" for section, of in to_dict(COMMAND_SETTINGS[command]()).items() for key in of]
    assert len(keys) > 15
    for key in keys:
        with pytest.raises(ConfigError) as caught:
            load_settings(f"{file}:{key}")
        words = rf"--config={file}:{key}, line 6: {key}=b'five': (expected|use one of) "
        assert re.match(words, str(caught.value)), str(caught.value)


# --- keys are those to type -------------------------------------------------------------------------------------------


def wrong_sources(folder: Path) -> dict[str, list[str]]:
    """For each source, settings that cannot be had from it."""
    from drifting.data.sources import ARGUMENTS, SOURCES

    file = folder / "array.npz"
    np.savez(file, image=np.zeros((4, 8, 8), np.uint8), label=np.asarray([0, 1, 2, 9]))
    values = {
        "path": str(folder / "nowhere"),
        "image_size": "-3",
        "image_width": "-2",
        "channels": "7",
        "classes": "-1",
    }
    found = {}
    for name in SOURCES:
        found[f"{name}, nothing given"] = [name]
        found[f"{name}, everything wrong"] = [name, *(f"{key}={values[key]}" for key in ARGUMENTS)]
        for key in ARGUMENTS:
            found[f"{name}, {key}"] = [name, *dict.fromkeys([f"path={folder}", f"{key}={values[key]}"])]
    found["array, labels with gaps"] = ["array", f"path={file}"]
    return found


def test_errors_of_sources_name_settings(tmp_path: Path):
    """Over all sources and arguments: what begins like a key is the key to type, of the section `data`."""
    from drifting.config.schema import DataConfig
    from drifting.data.sources import source
    from drifting.errors import ConfigError

    told = 0
    for case, (name, *given) in wrong_sources(tmp_path).items():
        if not given and name in ("digits", "synthetic"):
            continue
        values = dict(item.split("=", 1) for item in given)
        typed = {key: value if key == "path" else int(value) for key, value in values.items()}
        for split in ("train", "heldout"):
            try:
                source(DataConfig(name=name, **typed), split)  # type: ignore[arg-type]
            except ConfigError as error:
                told += 1
                assert re.match(r"data\.(name|path|image_size|image_width|channels|classes)=", str(error)), (
                    case,
                    str(error),
                )
                assert not re.search(
                    r"(?<![\w.'])(path|image_size|image_width|channels|classes)='?[\w/-]", str(error)
                ), str(error)
    assert told > 50


# --- what is written is tried before the work ---


def takes_out() -> list[str]:
    """All commands that write what a flag names."""
    from absl import flags

    from drifting.cli.commands import COMMANDS as ALL

    found = []
    for name, command in ALL.items():
        values = flags.FlagValues()
        command.define(values)
        found += [name] * ("out" in values)
    return found


def test_nothing_is_written_where_it_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Over all commands with `--out`: what is no file or folder, or of the wrong kind, or takes no file at all."""
    from drifting.cli.commands import COMMANDS as ALL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    commands = takes_out()
    assert len(commands) > 12
    for name in commands:
        kind = ALL[name].out
        wrong = {"pipe": "is no regular file; give", "/dev/null": "is no regular file; give"}
        wrong |= {"/proc/x.png": r"the folder /proc cannot be written \(.+\); make it writable, or give another"}
        if kind != "file":
            wrong["file"] = "give the name of a page" if kind == "page" else "is a file; give a folder"
        if kind != "folder":
            wrong["folder.png"] = "is a folder; give a file, such as folder.png/NAME"
        for out, words in wrong.items():
            assert main([*name.split(), *["a", "b"][: len(ALL[name].takes)], f"--out={out}", *given(name)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert re.search(f"error: --out={out}: {words}", line), line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "pipe"]


def given(name: str) -> list[str]:
    """What a command needs besides, so that `--out` is what is wrong."""
    return ["--images=x"] if name == "reference" else []


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import errno

    from drifting.cli import flag_paths
    from drifting.cli.commands import COMMANDS as ALL

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flag_paths.tempfile, "NamedTemporaryFile", full)
    for name in takes_out():
        out = f"{tmp_path}/x.html" if ALL[name].out == "page" else f"{tmp_path}/x"
        assert main([*name.split(), f"--out={out}", *given(name)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--out={out}: the folder {tmp_path} cannot be written (No space left on device); make" in line


# --- flags without a value ---


def test_a_flag_without_a_value_is_not_taken_for_its_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Over all commands and the texts and lists that each takes."""
    from absl import flags

    from drifting.cli.commands import COMMANDS as ALL

    told = 0
    for name, command in ALL.items():
        values = flags.FlagValues()
        command.define(values)
        texts = [flag for flag in values if flag not in command.takes and not values[flag].boolean]
        for flag in (flag for flag in texts if values[flag].flag_type() not in ("int", "float")):
            experiment = {"pretrain": "mae_digits", "cache": "data/imagenet"}.get(name, TINY)
            needed = command.settings is not None and flag != command.without_config
            assert main([*name.split(), *[f"--config={experiment}"] * needed, f"--{flag}="]) == 2, (name, flag)
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith((f"drifting: error: --{flag}: give a value", "drifting: error: --config")), line
            told += f"--{flag}: give a value" in line
    assert told > 50


# --- the environment ---


@pytest.mark.parametrize(
    ("name", "value", "library"),
    [("JAX_ENABLE_X64", "maybe", "jax"), ("JAX_NUM_CPU_DEVICES", "x", "jax"), ("FLAX_PROFILE", "maybe", "flax"),
     ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "huggingface_hub")],
)  # fmt: skip
def test_a_variable_that_no_library_can_read_is_named(name: str, value: str, library: str):
    """In a process of its own: each library reads it as it is imported."""
    command = [sys.executable, "-m", "drifting.cli", "sample", "--weights=nowhere"]
    environment = {**os.environ, name: value, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    (line,) = done.stderr.splitlines()
    words = rf"drifting: error: {name}={value}: {library} cannot be imported with it \(.*{value}.*\); unset it, or set"
    assert done.returncode == 1 and re.match(words, line), line


# --- homes that are not there -----------------------------------------------------------------------------------------


def test_home_of_nobody_is_refused_in_every_flag_and_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Over all commands and the flags that each has: no value is taken for a folder whose name begins with `~`."""
    from absl import flags

    from drifting.cli.commands import COMMANDS as ALL

    monkeypatch.chdir(tmp_path)
    told = 0
    for name, command in ALL.items():
        values = flags.FlagValues()
        command.define(values)
        for flag in (flag for flag in values if values[flag].flag_type() == "string"):
            for argument in (f"--{flag}=~nobodyelse/x", f"--{flag} ~nobodyelse/x"):
                assert main([*name.split(), *argument.split()]) == 2
                (line,) = capsys.readouterr().err.splitlines()
                assert "~nobodyelse/x: there is no user nobodyelse; give the whole path" in line
                told += 1
    assert told > 60 and not list(tmp_path.iterdir())


def test_home_of_nobody_is_refused_in_settings(tmp_path: Path):
    from drifting.config.parse import parse
    from drifting.errors import ConfigError

    words = "data.path=~nobodyelse/x: there is no user nobodyelse"
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        parse({"data": {"path": "~nobodyelse/x"}})


def test_paths_at_which_nothing_can_lie_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Over all flags of all commands that give a path: links in a circle, and names that are too long."""
    from absl import flags

    from drifting.cli.commands import COMMANDS as ALL
    from drifting.cli.flag_paths import PATH_FLAGS, PLACE_FLAGS, WEIGHTS_FLAGS

    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    wrong = {tmp_path / "loop": "its links lead in a circle; mend", tmp_path / ("a" * 300): "is too long a name; give"}
    experiments = {"cache": "data/imagenet", "pretrain": "mae_digits", "sweep": "sweeps/kernel_width"}
    tried = 0
    for name, command in ALL.items():
        values = flags.FlagValues()
        command.define(values)
        for flag in {*PATH_FLAGS, *PLACE_FLAGS, *WEIGHTS_FLAGS} & {"config", *values}:
            if flag == "config" and command.settings is None:
                continue
            needs = [f"--config={experiments.get(name, 'digits')}"]
            takes_config = (command.settings or name == "sweep") and not command.has_defaults
            if flag in ("config", command.without_config) or not takes_config:
                needs = []
            for path, words in wrong.items():
                code = main([*name.split(), *["a", "b"][: len(command.takes)], *needs, f"--{flag}={path}"])
                (line,) = capsys.readouterr().err.splitlines()
                assert code == 2 and line.startswith(f"drifting: error: --{flag}={path}: {words}"), (name, line)
                tried += 1
    assert tried > 80
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
