"""Metrics files, progress display and image grids."""

import io
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from drifting.errors import ConfigError, InputError
from drifting.runs import files, metrics
from drifting.runs.progress import Progress, duration
from drifting.runs.stopwatch import Stopwatch, spoken
from drifting.sampling import grid
from tests.support.wandb_stand_in import Wandb


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_round_trip_exactly(tmp_path):
    values = {"loss": 0.1 + 0.2, "b": np.float32(1 / 3), "a": jnp.float32(2e-41), "n": 7, "bad": float("nan")}
    with metrics.MetricsWriter(tmp_path / "run", tensorboard=False) as writer:
        writer.write(3, values)
        writer.write(jnp.int32(4), {"loss": float("inf")})
        written = (tmp_path / "run" / "metrics.jsonl").read_text()  # before it is closed: each line is flushed
    first, second = written.splitlines()
    assert list(json.loads(first)) == ["step", "a", "b", "bad", "loss", "n"]
    read = json.loads(first)
    assert read["step"] == 3 and read["n"] == 7 and isinstance(read["n"], int) and np.isnan(read["bad"])
    assert all(read[name] == float(values[name]) for name in ("loss", "a", "b"))
    assert np.float32(read["b"]) == values["b"]
    assert json.loads(second) == {"step": 4, "loss": float("inf")}


def test_writer_appends_and_refuses_the_name_step(tmp_path):
    for step in (1, 2):
        with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
            writer.write(step, {"loss": step})
    writer.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer, pytest.raises(ValueError, match='"step"'):
        writer.write(3, {"step": 1.0})
    assert len(lines(tmp_path / "metrics.jsonl")) == 2


def test_resumed_file_is_the_file_of_an_uninterrupted_run(tmp_path):
    def run(directory, first, last, last_step=None):
        with metrics.MetricsWriter(directory, tensorboard=False, last_step=last_step) as writer:
            for step in range(first, last + 1):
                writer.write(step, {"loss": 1 / step})

    run(tmp_path / "whole", 1, 20)
    run(tmp_path / "broken", 1, 13)
    path = tmp_path / "broken" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 14, "lo')  # the process died here
    run(tmp_path / "broken", 11, 20, last_step=10)
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("torn", ["", '{"step": 3', '{"step": 3}', "{}", "[1]"])
def test_truncate_drops_later_lines_and_a_torn_one(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 9}\n' + torn)
    metrics.truncate_metrics(path, 8)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    metrics.truncate_metrics(path, 0)
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]  # no temporary file stays


def test_truncate_leaves_a_good_file_alone_and_refuses_a_foreign_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.truncate_metrics(path, 5)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = path.stat()
    metrics.truncate_metrics(path, 2)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        metrics.truncate_metrics(path, 1)
    assert "hello" in path.read_text()


@pytest.mark.parametrize("torn", ["", "{", '{"st', '{"step": 1', '{"step": 1, "loss": 0.'])
def test_a_first_line_that_a_crash_cut_short_is_dropped(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text(torn)
    metrics.check_metrics(tmp_path)
    assert metrics.last_metrics_step(tmp_path) is None
    metrics.truncate_metrics(path, 5)
    assert path.read_text() == ""


GOOD = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'

DAMAGED = {
    "bytes": b"\x89\x00\xff" * 50,
    "text": b"hello",
    "zeros": b"\0" * 100,
    "one line that is none": b"hello\n",
    "no step": b'{"loss": 1}\n' + GOOD,
    "a step that is no number": b'{"step": "x"}\n' + GOOD,
    "a step that is no whole number": b'{"step": 1.5}\n' + GOOD,
    "a list": b"[1]\n" + GOOD,
    "nested": b"[" * 100_000 + b"\n" + GOOD,
    "overwritten": b"\0" * 30 + GOOD[30:],
    "an empty line": GOOD + b"\n" + GOOD,
    "a line within": GOOD + b'{"step": 3, "lo\n' + GOOD,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_metrics_are_refused_and_stay(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=rf"^workdir={tmp_path}: metrics.jsonl: line \d is not a metrics line; repair"
    ):
        metrics.check_metrics(tmp_path)
    with pytest.raises(InputError, match=rf"^{path}: line \d is not"):
        metrics.truncate_metrics(path, 0)
    assert path.read_bytes() == content


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_tensorboard_holds_the_scalars_and_purges_on_resume(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

    def events():
        out = []
        for path in sorted((tmp_path / "tensorboard").iterdir()):
            data = path.read_bytes()
            while data:  # TFRecord: length, its CRC, payload, its CRC
                size = int.from_bytes(data[:8], "little")
                out.append(event_pb2.Event.FromString(data[12 : 12 + size]))
                data = data[16 + size :]
        return out

    grid.save_grid(np.zeros((2, 8, 8, 1)), tmp_path / "grid.png", columns=2)
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5, "gap": 2.0}, {"speed/data_wait": 0.25})
        writer.write(2, {"loss": 0.25})
        writer.show(2, "samples", tmp_path / "grid.png")
    found = {(e.step, v.tag): v for e in events() for v in e.summary.value}
    with Image.open(io.BytesIO(found.pop((2, "samples")).image.encoded_image_string)) as image:
        assert image.size == Image.open(tmp_path / "grid.png").size
    scalars = {key: value.simple_value for key, value in found.items()}
    assert scalars == {(1, "gap"): 2.0, (1, "loss"): 0.5, (1, "speed/data_wait"): 0.25, (2, "loss"): 0.25}
    with metrics.MetricsWriter(tmp_path, last_step=1) as writer:
        writer.write(2, {"loss": 0.125})
    assert 2 in [e.step for e in events() if e.HasField("session_log")]  # TensorBoard hides steps >= 2 before it


def test_wandb_is_imported_only_on_demand(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    metrics.MetricsWriter(tmp_path / "a", tensorboard=False).close()
    with pytest.raises(ValueError, match=r"train\.wandb_project: wandb is not installed; pip install wandb"):
        metrics.MetricsWriter(tmp_path / "b", tensorboard=False, wandb=metrics.WandbRun("p"))
    assert not (tmp_path / "b").exists()


def test_wandb_gets_settings_timings_and_pictures_and_the_same_run_goes_on(tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = {"loss": {"widths": (0.1,)}}
    run = metrics.WandbRun("p", entity="team", group="widths", tags=("a", "b"), settings=settings)
    grid.save_grid(np.zeros((2, 8, 8, 1)), tmp_path / "grid.png", columns=2)
    for step in (1, 2):
        with metrics.MetricsWriter(tmp_path / "c", tensorboard=False, wandb=run) as writer:
            writer.write(step, {"loss": np.float32(0.5)}, {"speed/data_wait": 0.25})
            writer.show(step, "samples", tmp_path / "grid.png")
    values = {"loss": 0.5, "speed/data_wait": 0.25}
    shown = {"samples": ("picture", Image.open(tmp_path / "grid.png").size)}
    assert fake.logged == [(1, values), (1, shown), (2, values), (2, shown)] and fake.ended == 2
    assert fake.started[0] == fake.started[1]  # and so its id
    wanted = {"project": "p", "entity": "team", "group": "widths", "tags": ["a", "b"], "config": settings, "name": "c"}
    assert wanted.items() <= fake.started[0].items() and fake.started[0]["resume"] == "allow"
    assert lines(tmp_path / "c" / "metrics.jsonl") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]


def test_wandb_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Wandb(RuntimeError("no\nnetwork")))
    with pytest.raises(ValueError, match=r"^train\.wandb_project='p': W&B does not start \(no network\); log in"):
        metrics.MetricsWriter(tmp_path, tensorboard=False, wandb=metrics.WandbRun("p"))


def test_timings_are_kept_beside_the_metrics(tmp_path):
    """Of every start what it said of itself and how long it took; a line that a crash cut short harms no other."""
    for last_step in (None, 1):
        with metrics.MetricsWriter(tmp_path, tensorboard=False, last_step=last_step, about=["model: x"]) as writer:
            writer.write((last_step or 0) + 1, {"loss": 1.0}, {"speed/data_wait": 0.5})
        with (tmp_path / "timings.jsonl").open("a") as file:
            file.write('{"step": 9, "sec')
    torn, whole = "sec", []
    for line in (tmp_path / "timings.jsonl").read_text().splitlines():
        if not line.endswith(torn):
            whole.append(json.loads(line))
    assert [line["step"] for line in whole] == [0, 1, 1, 2]
    assert all(line["about"] == ["model: x"] and line["started"] for line in whole[::2])
    assert all(line["speed/data_wait"] == 0.5 and line["seconds"] >= 0 for line in whole[1::2])
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}]


# --- progress ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that a test turns by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_when_not_a_terminal():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=False, width=20)
    with Progress(1000, start=100, interval=10.0, console=console, clock=clock) as progress:
        for step in range(101, 401):
            clock.now += 0.125
            progress.update(step, {"gap": 0.123456, "loss": 1.0} if step % 50 == 1 else None)
    printed = out.getvalue().splitlines()
    assert printed[0] == "train 101/1000  gap 0.1235  loss 1"  # one update gives no rate
    assert [line.split()[1] for line in printed] == ["101/1000", "181/1000", "261/1000", "341/1000", "400/1000"]
    assert printed[-1].endswith("gap 0.1235  loss 1  8 steps/s  ETA 1:15")


def test_a_line_ends_with_its_last_word():
    out = io.StringIO()
    with Progress(1400, label="evaluate", console=Console(file=out, force_terminal=False), clock=Clock()) as progress:
        progress.update(32)
    assert out.getvalue() == "evaluate 32/1400\n"


def test_rate_leaves_out_a_slow_first_step():
    clock, out = Clock(), io.StringIO()
    with Progress(10_000, console=Console(file=out, force_terminal=False), clock=clock) as progress:
        clock.now += 300.0  # compilation
        progress.update(1)
        for step in range(2, 200):
            clock.now += 1.0
            progress.update(step)
    last = out.getvalue().splitlines()[-1]
    assert "1 steps/s" in last and f"ETA {duration(10_000 - 199)}" in last


def test_bar_on_a_terminal():
    out = io.StringIO()
    with Progress(10, label="pretrain", console=Console(file=out, force_terminal=True, width=100)) as progress:
        progress.update(9)
        progress.update(10, {"gap": 0.5})
    text = out.getvalue()
    assert "pretrain" in text and "10/10" in text and "gap 0.5" in text and "steps/s" in text


def test_a_bar_moves_between_the_steps_that_are_logged():
    """What is shown a quarter of a second after a step is that step, though its metrics are older."""
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress(1000, console=console, clock=clock) as progress:
        progress.update(1, {"gap": 0.5}, "1.2 GB")
        for step in range(2, 100):
            clock.now += 0.125
            progress.update(step)
            assert progress._bar is not None
            task = progress._bar.tasks[0]
            assert step - task.completed <= 2
        assert {"gap 0.5", "8 steps/s", "1.2 GB"} <= set(task.fields["text"].split("  "))
    assert "99/1000" in out.getvalue()


def test_a_stopwatch_leaves_out_the_first_step_and_what_is_no_step():
    clock = Clock()
    watch = Stopwatch(samples=32, clock=clock)
    assert watch.lap(1) == {}  # nothing is known of a step that was compiled
    clock.now += 60.0
    watch.start(1)
    assert watch.lap(1) == {}
    for _ in range(4):
        with watch.waiting():
            clock.now += 0.5
        clock.now += 1.5
    with watch.apart():
        clock.now += 100.0
    measured = watch.lap(5)
    assert measured == {"speed/seconds_per_step": 2, "speed/images_per_second": 16, "speed/data_wait": 0.25}
    assert spoken(measured | {"speed/device_memory_gb": 1.23}) == "2 s/step  16 images/s  25% data wait  1.2 GB"
    clock.now += 1.0
    assert watch.lap(6)["speed/seconds_per_step"] == 1 and watch.lap(6) == {}


def test_nothing_is_printed_for_a_run_already_done():
    out = io.StringIO()
    with Progress(10, start=10, console=Console(file=out, force_terminal=False)):
        pass
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    "seconds,text",
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01"), (np.inf, "-:--")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ("cat", "a dog, a hound, whichever it is of the two")])
@pytest.mark.parametrize("channels,mode", [(1, "LA"), (2, "LA"), (3, "RGBA"), (4, "RGBA")])
def test_grid_holds_every_image_in_its_place(tmp_path, channels, mode, names):
    """Each tile, read back, is the quantised image; between them it is transparent; names are at their rows."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 255, (5, 40, 60, channels))
    path = tmp_path / "new" / "grid.png"
    grid.save_grid(levels / 127.5 - 1.0, path, columns=3, scale=2, names=names)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == mode
        rows = json.loads(image.text["Rows"])
        pixels = np.array(image).astype(int)
    names_end = rows["left"]
    assert rows["names"] == list(names) and bool(names) == bool(names_end)
    assert pixels.shape[:2] == (2 * (80 + 2) + 2, names_end + 3 * (120 + 2) + 2)
    written, pixels = pixels[:, :names_end], pixels[:, names_end:]
    for i in range(5):
        top, left = 2 + (i // 3) * 82, 2 + (i % 3) * 122
        tile = pixels[top : top + 80, left : left + 120]
        np.testing.assert_array_equal(tile[::2, ::2, :-1], levels[i, ..., : pixels.shape[-1] - 1])
        np.testing.assert_array_equal(tile[1::2, 1::2], tile[::2, ::2])
        assert (tile[..., -1] == 255).all()
        pixels[top : top + 80, left : left + 120] = 0
    assert (pixels == 0).all()
    for row in range(2 * bool(names)):
        opaque = written[2 + row * 82 : 2 + (row + 1) * 82, :, -1]
        assert opaque.max() == 255 and opaque[:20].max() == opaque[-20:].max() == 0  # in the middle of its row
        assert (written[..., :-1][written[..., -1] > 0] == 128).all()
        assert opaque[:, :2].max() == 0 or row  # the longer one is cut to the width there is
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("ground", [(255, 255, 255), (18, 20, 23)])
def test_names_are_read_on_light_and_dark(tmp_path, ground):
    """Contrast of 3.9 or more, as the accessibility guidelines compute it (they ask 3 of pictures)."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.asarray(colour) / 255]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    grid.save_grid(np.ones((1, 8, 8, 3)), tmp_path / "grid.png", columns=1, names=["word"])
    with Image.open(tmp_path / "grid.png") as image:
        left = json.loads(image.text["Rows"])["left"]
        shown = Image.new("RGBA", image.size, ground)
        shown.alpha_composite(image.convert("RGBA"))
    colours = {colour[:3] for _, colour in shown.crop((0, 0, left, shown.height)).getcolors(1 << 16)}
    light, dark = sorted(map(luminance, [max(colours, key=lambda c: abs(c[0] - ground[0])), ground]), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.9


def test_grid_clips_and_replaces(tmp_path):
    path = tmp_path / "grid.png"
    path.write_text("old")
    grid.save_grid(jnp.array([-3.0, 3.0]).reshape(2, 1, 1, 1), path, columns=8, scale=1)
    with Image.open(path) as image:
        pixels = np.array(image)
    assert pixels.shape == (5, 8, 2) and pixels[2, 2].tolist() == [0, 255] and pixels[2, 5].tolist() == [255, 255]


@pytest.mark.parametrize("size,scale", [(8, 8), (28, 3), (32, 2), (64, 1), (256, 1)])
def test_tiny_images_are_magnified(tmp_path, size, scale):
    assert grid.legible_scale(size, size // 2) == scale
    grid.save_grid(np.zeros((1, size, size, 1)), tmp_path / "grid.png", columns=1)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (size * scale + 4, size * scale + 4)


@pytest.mark.parametrize(
    "images,name,message",
    [
        (np.zeros((2, 3, 3)), "a.png", "expected"),
        (np.zeros((0, 3, 3, 1)), "a.png", "expected"),
        (np.full((1, 3, 3, 1), np.nan), "a.png", "not finite"),
        (np.zeros((1, 3, 3, 1)), "a.jpg", "must end in .png"),
    ],
)
def test_grid_refuses_what_it_cannot_show(tmp_path, images, name, message):
    with pytest.raises(ValueError, match=message):
        grid.save_grid(images, tmp_path / name, columns=2)
    with pytest.raises(ValueError, match="names=2: give a name for each of the 3 rows"):
        grid.save_grid(np.zeros((3, 3, 3, 1)), tmp_path / "a.png", columns=1, names=["a", "b"])
    assert not list(tmp_path.iterdir())
