"""Weights out of runs and in again: the same numbers and the same images, and a page that says what they are."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from drifting.assembly import networks
from drifting.cli.commands import main
from drifting.config.schema import MAEConfig, ModelConfig, PretrainConfig
from drifting.errors import ArgumentError, ConfigError, InputError
from drifting.experiments.export import export_run, import_weights
from drifting.networks.vae import PRESETS, AutoencoderKL
from drifting.runs.directory import write_config
from drifting.runs.files import sha256
from drifting.sampling.generator import TrainedGenerator
from drifting.training.generator import keeper_of
from drifting.weights.artifact import load_artifact, other_vae, save_artifact
from drifting.weights.catalogue import RELEASED_VAE_SHA256
from drifting.weights.diffusers_vae import diffusers_name
from drifting.weights.load import load_weights
from drifting.weights.released import load_released, save_released
from tests.support import fake_hub
from tests.support.runs import finished_run, tiny_config, tree
from tests.support.torch_tensors import to_torch

LABELS = np.asarray([3, 1, 4, 1, 5], np.int32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def test_averages_of_other_widths_are_made_after_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert main(["ema", f"--workdir={copy}", "--std=0.05"]) == 2
    assert "has stored no averages of which others are made: train with train.ema_stds" in capsys.readouterr().err
    trained = TrainedGenerator.from_run(run)
    layout = SimpleNamespace(local=lambda tree: tree)
    settings = tiny_config(train=dict(ema_stds=(0.05, 0.1)), optimizer=dict(no_op_steps=2))
    keep = keeper_of(SimpleNamespace(config=settings, layout=layout), copy)
    assert keep is not None and keeper_of(SimpleNamespace(config=tiny_config(), layout=layout), copy) is None
    narrow, wide = (jax.tree.map(lambda leaf, s=scale: leaf * s, trained.params) for scale in (1.0, 3.0))
    for step in (2, 4, 8):  # there is nothing to average after the second
        keep(step, SimpleNamespace(ema={"std=0.05": narrow, "std=0.1": wide, "0.99": trained.params}))
    assert sorted(path.name for path in (copy / "averages").iterdir()) == [
        "4.json", "4.safetensors", "8.json", "8.safetensors",
    ]  # fmt: skip
    assert main(["ema", f"--workdir={copy}", "--std=0.05,0.1,0.07", f"--out={tmp_path / 'ema'}"]) == 0
    folders = [tmp_path / "ema" / f"std-{std}" for std in (0.05, 0.1, 0.07)]
    assert capsys.readouterr().out.split() == list(map(str, folders))
    found = [TrainedGenerator.from_weights(str(folder)) for folder in folders]
    assert [(one.ema_std, one.ema_decay, one.step) for one in found] == [
        (0.05, None, 8),
        (0.1, None, 8),
        (0.07, None, 8),
    ]
    for one, scale in zip(found[:2], (1.0, 3.0), strict=True):
        jax.tree.map(
            lambda a, b, s=scale: np.testing.assert_allclose(a, b * s, rtol=1e-5, atol=1e-6), one.params, trained.params
        )
    assert "relative width of the averaged parameters (EMA)" in (folders[0] / "README.md").read_text()
    for flag, words in {
        "--std=0.05,0.3": "--std=0.3: use widths above 0 and at most 0.25",
        "--std=": "--std: give a value",
        "--std=0.05,x": "--std=x: expected numbers",
    }.items():
        assert main(["ema", f"--workdir={copy}", flag]) == 2 and words in capsys.readouterr().err
    assert not (copy / "ema").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0.99,std=0.1", "has stored no averages of which others are made"),
        ("0.99,0.5", "--ema=0.5: the run does not keep it"),
        ("std=0.1,std=.1", "names std=.1 twice"),
        ("wide=0.1", "--ema=wide=0.1: expected numbers with commas between them, e.g. 0.999,std=0.05"),
        ("0.99,std=0.3", "--ema=std=0.3: use a width above 0 and at most 0.25"),
        ("std=foo", "--ema=std=foo: expected numbers with commas between them"),
    ],
)
def test_averages_that_cannot_be_scored_are_told_before_any_is(
    run: Path, given: str, words: str, capsys: pytest.CaptureFixture[str]
):
    before = tree(run)
    assert main(["evaluate", f"--workdir={run}", f"--ema={given}", "--num=20"]) == 2
    assert words in capsys.readouterr().err and tree(run) == before


@pytest.mark.parametrize("layout", ["safetensors", "released"])
def test_an_exported_generator_draws_what_the_run_draws(run: Path, tmp_path: Path, layout: str):
    export_run(run, tmp_path / "net", average=0.99, layout=layout)
    ours, published = TrainedGenerator.from_run(run, 0.99), TrainedGenerator.from_weights(str(tmp_path / "net"))
    jax.tree.map(np.testing.assert_array_equal, ours.params, published.params)
    images = [trained.sample(LABELS, seed=5, alpha=1.5, batch_size=5) for trained in (ours, published)]
    np.testing.assert_array_equal(*images)
    assert published.usage.class_names == list("0123456789") and published.usage.alpha_range == [1.0, 4.0]
    assert (published.step, published.ema_decay, published.config) == (120, 0.99, None)
    metadata = published.facts
    assert metadata["settings"]["train"]["steps"] == 120 and metadata["data"] == "digits"
    text = (tmp_path / "net" / "README.md").read_text()
    assert "drifting sample --weights=hf://OWNER/NAME" in text and "| steps | 120 |" in text


def test_exporting_again_replaces_and_importing_gives_the_same(run: Path, tmp_path: Path):
    export_run(run, tmp_path / "net")
    export_run(run, tmp_path / "net", layout="released")
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == [
        "README.md",
        "ema_params.msgpack",
        "metadata.json",
    ]
    import_weights(str(tmp_path / "net"), tmp_path / "back")
    found, expected = load_artifact(tmp_path / "back"), load_released(tmp_path / "net")
    assert found.kind == "generator" and found.model_config == expected.model_config
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert found.metadata["usage"] == expected.metadata["usage"] and "source" not in found.metadata


@pytest.mark.parametrize("layout", ["safetensors", "released"])
def test_what_a_person_has_put_into_an_export_is_not_lost(run: Path, tmp_path: Path, layout: str):
    export_run(run, net := tmp_path / "net", layout=layout)
    export_run(run, net, layout=layout)
    for name, content in (("README.md", "mine"), ("LICENSE", "mine")):
        before = (net / name).read_text() if (net / name).exists() else None
        (net / name).write_text(content)
        there = {path.name: path.read_bytes() for path in net.iterdir()}
        with pytest.raises(ConfigError, match=rf"{name}.*would be lost: move it away, or give another folder"):
            export_run(run, net, layout=layout)
        assert {path.name: path.read_bytes() for path in net.iterdir()} == there
        (net / name).unlink() if before is None else (net / name).write_text(before)
    export_run(run, net, layout=layout)


@pytest.mark.parametrize("layout", ["safetensors", "released"])
def test_an_encoder_is_exported(tmp_path: Path, layout: str):
    config = PretrainConfig(mae=MAEConfig(base_channels=4, layers=(1, 1, 1, 1), lambda_cls=0.1))
    arguments = networks.mae_arguments(config.mae, 4, 3)
    params = nnx.to_pure_dict(nnx.state(networks.autoencoder(arguments, jax.random.key(0))))
    with pytest.raises(ConfigError, match="holds no run"):
        export_run(tmp_path / "run", tmp_path / "net")
    write_config(tmp_path / "run", config)
    with pytest.raises(ConfigError, match="has no encoder yet, let `drifting pretrain` finish"):
        export_run(tmp_path / "run", tmp_path / "net")
    folder = tmp_path / "run" / "encoder"
    save_artifact(folder, kind="mae", model_config=arguments, params=params, step=9, ema_decay=0.9)
    export_run(tmp_path / "run", tmp_path / "net", layout=layout)
    found = load_weights(str(tmp_path / "net"), "mae")
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.metadata["step"] == 9 and found.metadata["settings"]["mae"]["base_channels"] == 4
    assert "--config.features.options.mae.weights=hf://OWNER/NAME" in (tmp_path / "net" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"^average=0\.9: an encoder is written with the first of its averages"):
        export_run(tmp_path / "run", tmp_path / "net", average=0.9)


def test_scores_and_folders_of_the_owner(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    scores = {"step": 120, "scores": [{"alpha": 1.0, "frechet_distance": 1.25}]}
    (copy / "eval-120.json").write_text(json.dumps(scores))
    settings = json.loads((copy / "config.json").read_text())
    settings["data"]["path"] = str(tmp_path / "secret" / "mine.npz")
    settings["features"]["mae"] = "hf://owner/encoder"
    (copy / "config.json").write_text(json.dumps(settings))
    export_run(copy, tmp_path / "net")
    written = "".join((tmp_path / "net" / name).read_text() for name in ("metadata.json", "README.md"))
    assert "secret" not in written and str(tmp_path) not in written
    assert "mine.npz" in written and "hf://owner/encoder" in written and "| frechet_distance | 1.25 |" in written


def test_what_cannot_be_exported(run: Path, tmp_path: Path):
    before = tree(tmp_path)
    for workdir, options, message in (
        (tmp_path, {}, "holds no run"),
        (run, {"layout": "onnx"}, "layout=onnx: use one of safetensors, released"),
        (run, {"average": 0.5}, "average=0.5: the run does not keep it"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            export_run(workdir, tmp_path / "net", **options)
        assert "\n" not in str(error.value)
    assert tree(tmp_path) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"^out=.*mine exists and is no artifact"):
        export_run(run, tmp_path / "mine")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.mkdir(), "has none of|no weights of a known kind"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{}")), "no weights of a known kind"),
        (lambda path: path.write_bytes(b"x"), "is no weights file: give a folder, or a .safetensors or "),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, make: object, message: str):
    make(tmp_path / "given")  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(str(tmp_path / "given"), tmp_path / "out")
    assert str(error.value).startswith(f"weights={tmp_path / 'given'}: ") and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


# --- published generators ---------------------------------------------------------------------------------------------


def released_latent_generator(folder: Path, side: int = 8, channels: int = 4) -> None:
    """A tiny generator of latents, its metadata as the released ones have them: how to use it is not said."""
    model = ModelConfig(hidden_size=16, depth=1, num_heads=2, patch_size=side // 4, style_tokens=1, style_codebook=4)
    _, init = networks.generator(model, (side, side, channels), 5, seed=0)
    arguments = networks.generator_arguments(model, (side, side, channels), 5)
    save_released(folder, kind="generator", model_config=arguments, params=jax.jit(init)(), step=7, ema_decay=0.999)


def stable_diffusion_vae(folder: Path) -> None:
    """A VAE in diffusers' layout that makes images eight times the size of their latents, as the published one does."""
    kwargs = PRESETS["smoke"] | dict(block_channels=(4, 4, 4, 4), dtype="float32", remat=False)
    vae = AutoencoderKL(**kwargs, rngs=nnx.Rngs(0))
    folder.mkdir()
    save_file(
        to_torch(nnx.to_pure_dict(nnx.state(vae)), diffusers_name), folder / "diffusion_pytorch_model.safetensors"
    )
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
    sizes = dict(in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=4)
    config = dict(_class_name="AutoencoderKL", block_out_channels=[4] * 4, act_fn="silu") | blocks | sizes
    (folder / "config.json").write_text(json.dumps(config))


def test_released_latents_are_decoded_by_the_vae_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    released_latent_generator(tmp_path / "net")
    stable_diffusion_vae(tmp_path / "vae")
    arguments = ["sample", f"--weights={tmp_path / 'net'}", f"--vae={tmp_path / 'vae'}", f"--out={tmp_path / 'x.png'}"]
    assert main([*arguments, "--classes=4,0", "--columns=3", "--batch=4"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}\n"
    with Image.open(tmp_path / "x.png") as image:
        names, grid = image.width - 3 * (64 + 2) - 2, np.asarray(image)
        assert image.mode == "RGBA" and names > 0 and image.height == 2 * (64 + 2) + 2
        assert (grid[2:66, names + 2 : names + 66, 3] == 255).all()  # what is no image is transparent


def test_a_folder_in_the_released_layout_claims_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Whatever it is called: only in the repository of the release are names those of the released weights."""
    for name in ("ablation", "net"):
        released_latent_generator(tmp_path / name)
        with pytest.raises(ArgumentError, match=r"^vae: .*8x8x4, which are no images: give the VAE") as error:
            TrainedGenerator.from_weights(str(tmp_path / name))
        assert "\n" not in str(error.value)
        trained = TrainedGenerator.from_weights(str(tmp_path / name), "random://smoke")
        assert (trained.usage.image_shape, trained.space.shape) == ((16, 16, 3), (8, 8, 4))
        assert (trained.alpha(None), trained.usage.alpha_range) == (1.0, None) and trained.alpha(9.0) == 9.0
        assert trained.usage.class_names == tuple("01234")
    assert not caplog.records
    released_latent_generator(tmp_path / "images", channels=3)
    trained = TrainedGenerator.from_weights(str(tmp_path / "images"))
    assert trained.usage.vae is None and trained.usage.image_shape == (8, 8, 3)
    for vae, words in (
        ("random://smoke", "its latents have 4 channels, the samples are 8x8x3"),
        ("none", "there is no such folder"),
    ):
        with pytest.raises(ArgumentError, match=f"^vae={vae}: {words}"):
            TrainedGenerator.from_weights(str(tmp_path / "images"), vae)


def test_released_weights_are_used_as_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What the released metadata leave out is known of their references; another VAE stands in for the published."""
    released_latent_generator(tmp_path / "net", side=32)
    stable_diffusion_vae(tmp_path / "vae")
    with fake_hub.serve() as hub:
        fake_hub.use(monkeypatch, hub.url, tmp_path / "home")
        for name, alpha in (("ablation", 2.0), ("latent_B_sota", 1.1), ("latent_L_sota", 1.0)):
            hub.add_folder("Goodeat/drifting", tmp_path / "net", prefix=f"models/gen/jax/{name}/")
            trained = TrainedGenerator.from_weights(f"hf://Goodeat/drifting/{name}", str(tmp_path / "vae"))
            assert trained.alpha(None) == alpha and trained.usage.class_names == list("01234")
            assert trained.usage.vae == "hf://stabilityai/sd-vae-ft-mse" and trained.space.shape == (32, 32, 4)
            assert trained.facts["vae_sha256"] == list(RELEASED_VAE_SHA256)
        with pytest.raises(
            ArgumentError, match=r"^vae=random://smoke: its latents are .128, 128, 4., the generator's .32"
        ):
            TrainedGenerator.from_weights("hf://Goodeat/drifting/ablation", "random://smoke")
        import_weights("hf://Goodeat/drifting/ablation", tmp_path / "ours")
    imported = TrainedGenerator.from_weights(str(tmp_path / "ours"), str(tmp_path / "vae"))
    assert imported.alpha(None) == 2.0 and imported.usage.vae == "hf://stabilityai/sd-vae-ft-mse"
    assert imported.facts["network"] == "dit"
    # A VAE of the same shapes and other weights decodes, and is told: of what is imported, too.
    told = [record.getMessage() for record in caplog.records]
    here = sha256(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert len(told) == 4 and set(told) == {told[0]} and "\n" not in told[0]
    assert told[0].startswith(
        f"vae={tmp_path / 'vae'}: its weights are {here[:12]}.., by their SHA-256, and a1d993488569.."
    )


@pytest.mark.parametrize("learned", [None, [], ["1" * 64], ["0" * 64, "1" * 64], "1" * 64, 3])
@pytest.mark.parametrize("here", [None, "1" * 64, "2" * 64, "random://smoke"])
def test_a_vae_of_other_weights_is_told_where_it_is_known(learned: Any, here: str | None):
    known = isinstance(learned, list) and bool(learned)
    assert bool(other_vae(learned, here)) == (known and here is not None and here not in learned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda usage: usage.pop("alpha"), "usage must have alpha, alpha_range, class_names, image_shape, vae"),
        (lambda usage: usage.update(class_names=["a"]), "class_names or image_shape are not those of the network"),
        (lambda usage: usage.update(image_shape=[8, 8]), "class_names or image_shape are not those of the network"),
    ],
)
def test_metadata_that_do_not_say_how_to_draw(run: Path, tmp_path: Path, change: Any, message: str):
    export_run(run, tmp_path / "net")
    metadata = json.loads((tmp_path / "net" / "metadata.json").read_text())
    change(metadata["usage"])
    (tmp_path / "net" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=message) as error:
        TrainedGenerator.from_weights(str(tmp_path / "net"))
    assert "\n" not in str(error.value)


def test_weights_that_name_a_vae_of_somebody_elses_machine(run: Path, tmp_path: Path):
    export_run(run, tmp_path / "net")
    metadata = json.loads((tmp_path / "net" / "metadata.json").read_text())
    metadata["usage"]["vae"] = "sd"
    (tmp_path / "net" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ArgumentError, match=r"^vae=sd: is a folder's name where .*net was trained: say where") as error:
        TrainedGenerator.from_weights(str(tmp_path / "net"))
    assert "\n" not in str(error.value)


def test_sampling_published_weights(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export_run(run, tmp_path / "net")
    out = tmp_path / "grid.png"
    common = ["--classes", "9,2", "--alpha", "1.0", "--columns=3", f"--out={out}"]
    assert main(["sample", "--weights", str(tmp_path / "net"), *common]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(out) as image:
        published = np.asarray(image)
    assert main(["sample", f"--workdir={run}", *common]) == 0
    with Image.open(out) as image:
        np.testing.assert_array_equal(np.asarray(image), published)
    capsys.readouterr()
    for flags, message in (
        ([], "--workdir or --weights: give one"),
        ([f"--workdir={run}", f"--weights={run}"], "--workdir or --weights: give one"),
        ([f"--weights={tmp_path / 'net'}", "--ema=0.9"], "--ema=0.9: published weights are one average"),
        ([f"--workdir={run}", "--vae=x"], "--vae=x: a run has its own"),
        ([f"--weights={tmp_path / 'net'}", "--vae=x"], "--vae=x: this generator draws images"),
        ([f"--weights={run}"], f"--weights={run}: is a run; give the folder that `drifting export` makes of it"),
        (["--weights=hf://Goodeat/drifting/latent_XL"], "--weights=hf://Goodeat/drifting/latent_XL: no such"),
    ):
        assert main(["sample", *flags, f"--out={tmp_path / 'y.png'}"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"drifting: error: {message}")
    assert not (tmp_path / "y.png").exists()


def test_the_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", f"--workdir={run}", f"--out={tmp_path / 'a'}"]) == 0
    assert main(["import", f"--weights={tmp_path / 'a'}", f"--out={tmp_path / 'b'}", "--format=released"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a'}\n{tmp_path / 'b'}\n"
    for arguments, message in (
        (["export", f"--workdir={run}"], "--out: give the folder to write"),
        (["import", "--out=x"], "--weights: give a folder of weights, or hf://OWNER/REPO"),
        (["hub", "push", f"--weights={tmp_path / 'a'}"], "--repo: give the repository, OWNER/NAME"),
        (
            ["hub", "push", f"--weights={tmp_path / 'a'}", "--repo=nobody"],
            "--repo=nobody: give the repository as OWNER/NAME",
        ),
        (["hub", "pull"], "hub pull: there is no such command"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"drifting: error: {message}")
    assert main(["hub", "push", "--help"]) == 0
    assert "usage: drifting hub push --weights=DIR --repo=OWNER/NAME" in capsys.readouterr().out
