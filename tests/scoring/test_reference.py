"""Statistics of real images: against NumPy, of ADM's form, shared by processes, and refused where they do not fit."""

from pathlib import Path

import numpy as np
import pytest

from drifting.data.source import ArraySource
from drifting.data.sources.digits import digits
from drifting.data.sources.synthetic import synthetic
from drifting.errors import ArgumentError, ConfigError, InputError
from drifting.runs.shared_work import Share
from drifting.sampling.files import write_npz
from drifting.scoring import reference
from drifting.scoring.against_reference import reference_judge
from drifting.scoring.image_features import ScoreEncoder, score_encoder
from drifting.scoring.image_sets import NpzImages, SourceImages
from drifting.scoring.reference import make_reference, read_reference

LEVELS = np.random.default_rng(0).integers(0, 256, (90, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> NpzImages:
    write_npz(tmp_path / "images.npz", 90, (4, 4, 3), iter([LEVELS]), np.zeros(90, np.int64))
    return NpzImages(tmp_path / "images.npz")


def pixels() -> ScoreEncoder:
    return score_encoder("pixels", (4, 4, 3))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference, "REFERENCE_PART_IMAGES", 32)
    monkeypatch.setattr(reference, "ENCODED_AT_ONCE", 16)


def test_statistics_are_numpys(images: NpzImages, tmp_path: Path):
    out = tmp_path / "reference.npz"
    assert make_reference(images, pixels(), out, keep=30)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images.npz", "reference.npz"]
    x = LEVELS.reshape(90, 48) / 127.5 - 1
    found = read_reference(out)
    mean, covariance = found.gaussians["features"]
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.features, x[np.linspace(0, 89, 30).astype(int)], rtol=0, atol=1e-6)
    assert found.encoder == "pixels" and found.metadata is not None and found.metadata["num"] == 90
    found.check(pixels())


def test_processes_share_it_and_a_killed_one_goes_on(
    images: NpzImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, shared, killed = (tmp_path / f"{name}.npz" for name in ("whole", "shared", "killed"))
    assert make_reference(images, pixels(), whole)
    assert not make_reference(images, pixels(), shared, share=Share(0, 2))
    assert make_reference(images, pixels(), shared, share=Share(1, 2))
    asked: list[int] = []
    part = NpzImages.part

    def failing(self: NpzImages, items: range) -> np.ndarray:
        asked.append(items.start)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return part(self, items)

    monkeypatch.setattr(NpzImages, "part", failing)
    with pytest.raises(KeyboardInterrupt):
        make_reference(images, pixels(), killed)
    assert make_reference(images, pixels(), killed)
    assert asked == [0, 16, 32, 48, 32, 48, 64, 80]  # the part that was finished is not made again
    for path in (shared, killed):
        for kind in ("mu", "sigma", "features"):
            with np.load(path) as other, np.load(whole) as first:
                np.testing.assert_array_equal(other[kind], first[kind])


def test_what_lies_at_the_references_place_is_not_written_over(images: NpzImages, tmp_path: Path):
    """Neither the images themselves, nor other files, nor what was made of others; the same may be made again."""
    out, other = tmp_path / "reference.npz", tmp_path / "other.npz"
    write_npz(other, 80, (4, 4, 3), iter([LEVELS[10:]]), np.zeros(80, np.int64))
    make_reference(NpzImages(other), pixels(), tmp_path / "of_others.npz")
    (tmp_path / "text.npz").write_text("a text")
    for there in ("images.npz", "other.npz", "of_others.npz", "text.npz"):
        before = (tmp_path / there).read_bytes()
        with pytest.raises(
            ArgumentError, match=rf"^out=.*{there}: is there and not known to be the statistics of these"
        ):
            make_reference(images, pixels(), tmp_path / there)
        assert (tmp_path / there).read_bytes() == before and not (tmp_path / f"{there}.parts").exists()
    assert make_reference(images, pixels(), out) and make_reference(images, pixels(), out)


def test_work_that_ended_before_its_first_part_is_in_nobodys_way(
    images: NpzImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unreadable(self: NpzImages, items: range) -> np.ndarray:
        raise InputError("a picture cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(NpzImages, "part", unreadable)
        with pytest.raises(InputError, match="a picture"):
            make_reference(images, pixels(), tmp_path / "reference.npz")
    write_npz(tmp_path / "fewer.npz", 80, (4, 4, 3), iter([LEVELS[10:]]), np.zeros(80, np.int64))
    assert make_reference(NpzImages(tmp_path / "fewer.npz"), pixels(), tmp_path / "reference.npz")


def test_images_of_a_data_set_are_what_they_were():
    source = synthetic(image_size=8, channels=3, classes=4)
    drawn = SourceImages(source, {}).part(range(5))
    expected = np.rint((source.__getitems__(range(5))[0].clip(-1, 1) + 1) * 127.5)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, expected)
    levels = digits().__getitems__(range(3))[0]
    assert np.abs(SourceImages(digits(), {}).part(range(3)) / 127.5 - 1 - levels).max() <= 1 / 255 + 1e-6


def test_an_image_that_is_not_finite_is_called_by_its_number_in_the_data():
    source = ArraySource(np.zeros((9, 2, 2, 1), np.float32), np.zeros(9, np.int32), ("0",))
    source._images[7, 0, 0] = np.nan  # which arrays that are given must not be
    with pytest.raises(ValueError, match=r"^image 7 has a pixel that is not finite$"):
        SourceImages(source, {}).part(range(4, 9))


def adm(path: Path, dim: int = 2048, **arrays: np.ndarray) -> Path:
    np.savez(path, mu=np.zeros(dim), sigma=np.eye(dim), **arrays)
    return path


def test_a_reference_of_adms_form(tmp_path: Path):
    path = adm(tmp_path / "adm.npz", mu_s=np.ones(3), sigma_s=np.eye(3), arr_0=LEVELS[:7])
    found = read_reference(path)
    assert {kind: len(mean) for kind, (mean, _) in found.gaussians.items()} == {"features": 2048, "spatial": 3}
    assert found.images is not None and len(found.images) == 7
    assert found.features is None and found.metadata is None and found.encoder is None
    assert len(found.facts["statistics_sha256"]) == 64
    bare = read_reference(adm(tmp_path / "bare.npz"))
    assert bare.images is None and bare.gaussians.keys() == {"features"}


@pytest.mark.parametrize(
    ("names", "spatial"),
    [(("mu", "sigma"), None), (("ref_mu", "ref_sigma"), None), (("mu", "sigma"), ("mu_s", "sigma_s"))],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_under_every_name_in_use(
    tmp_path: Path, names: tuple[str, str], spatial: tuple[str, str] | None, dtype: type
):
    arrays = {names[0]: np.full(3, 0.5, dtype), names[1]: 2 * np.eye(3, dtype=dtype)}
    if spatial:
        arrays |= {spatial[0]: np.zeros(2, dtype), spatial[1]: np.eye(2, dtype=dtype)}
    np.savez(tmp_path / "r.npz", **arrays, metadata=np.asarray("of somebody else"), more=np.zeros(2))
    found = read_reference(tmp_path / "r.npz")
    assert found.gaussians.keys() == ({"features", "spatial"} if spatial else {"features"}) and found.metadata is None
    np.testing.assert_array_equal(found.gaussians["features"][0], [0.5] * 3)
    np.testing.assert_array_equal(found.gaussians["features"][1], 2 * np.eye(3))


def test_names_of_the_released_code_come_first(tmp_path: Path):
    np.savez(tmp_path / "r.npz", mu=np.zeros(3), sigma=np.eye(3), ref_mu=np.ones(3), ref_sigma=np.eye(3))
    np.testing.assert_array_equal(read_reference(tmp_path / "r.npz").gaussians["features"][0], np.ones(3))
    np.savez(tmp_path / "half.npz", mu=np.zeros(3), sigma=np.eye(3), ref_mu=np.ones(3))
    np.testing.assert_array_equal(read_reference(tmp_path / "half.npz").gaussians["features"][0], np.zeros(3))


def test_real_images_lie_in_a_file_of_their_own(images: NpzImages, tmp_path: Path):
    np.savez(tmp_path / "r.npz", ref_mu=np.zeros(48), ref_sigma=np.eye(48))
    found = read_reference(tmp_path / "r.npz", images.path)
    found.check(pixels())
    judge = reference_judge(tmp_path / "r.npz", "pixels", (4, 4, 3), 3, images.path)
    assert judge.facts["real_images"] == images.facts["sha256"]
    np.testing.assert_allclose(judge.real.array("features"), LEVELS.reshape(90, 48) / 127.5 - 1, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(judge.real.gaussian("features")[1], np.eye(48))
    with pytest.raises(ConfigError, match=r"^real_images=.*images\.npz: is of images of \[4, 4, 3\], here they"):
        found.check(score_encoder("pixels", (8, 8, 3)))
    with pytest.raises(ConfigError, match=r"^real_images=.*nowhere: there is no such file or folder"):
        read_reference(tmp_path / "r.npz", tmp_path / "nowhere")


def test_what_is_no_reference(images: NpzImages, tmp_path: Path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    np.savez(tmp_path / "bent.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "kept.npz", mu=np.zeros(3), sigma=np.eye(3), features=np.zeros((9, 2)))
    np.savez(tmp_path / "minus.npz", mu=np.zeros(3), sigma=-np.eye(3))
    np.savez(tmp_path / "skew.npz", mu=np.zeros(3), sigma=np.eye(3) + np.eye(3, k=1))
    np.savez(tmp_path / "spatial.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2), sigma_s=np.diag([1, -1e-3]))
    for name, words in [
        ("absent.npz", r"there is no such file$"),
        ("text.npz", r"cannot be read as an array of an \.npz"),
        ("images.npz", r"has no mu and sigma"),
        ("nan.npz", r"mu or sigma is not finite"),
        ("bent.npz", r"mu \[3\] and sigma \[4, 4\] do not fit"),
        ("kept.npz", r"features \[9, 2\] do not fit mu \[3\]"),
        ("minus.npz", r"sigma is no covariance: it must be symmetric, without negative eigenvalues"),
        ("skew.npz", r"sigma is no covariance"),
        ("spatial.npz", r"sigma_s is no covariance"),
    ]:
        with pytest.raises(ConfigError, match=rf"^reference=.*{name}.*{words}"):
            read_reference(tmp_path / name)
    with pytest.raises(ConfigError, match=r"^out=x\.json: must end in \.npz"):
        make_reference(images, pixels(), Path("x.json"))


def test_covariances_of_few_or_equal_images_are_some(tmp_path: Path):
    x = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
    for sigma in (np.cov(x, rowvar=False), np.cov(x, rowvar=False).astype(np.float32), np.zeros((40, 40))):
        np.savez(tmp_path / "few.npz", mu=np.zeros(40), sigma=sigma)
        assert read_reference(tmp_path / "few.npz").gaussians.keys() == {"features"}


def test_a_reference_of_other_statistics(images: NpzImages, tmp_path: Path):
    make_reference(images, pixels(), tmp_path / "pixels.npz")
    found = read_reference(tmp_path / "pixels.npz")
    other_size = score_encoder("pixels", (8, 8, 3))
    with pytest.raises(ConfigError, match=r"its image_shape is \[4, 4, 3\], here it is \[8, 8, 3\]"):
        found.check(other_size)
    inception = ScoreEncoder("inception", "", "0123", (4, 4, 3), pixels().blocks, pixels().placed)
    with pytest.raises(ConfigError, match=r"its encoder is 'pixels', here it is 'inception'"):
        found.check(inception)
    small = read_reference(adm(tmp_path / "small.npz", 50, mu_s=np.zeros(3), sigma_s=np.eye(3)))
    with pytest.raises(ConfigError, match=r"^reference=.*small.*: has 50 features, pixels gives 48: name the encoder"):
        small.check(pixels())
    with pytest.raises(ConfigError, match=r"has 3 spatial features, inception gives 2023"):
        small.check_widths("inception", {"features": 50, "spatial": 2023})
    batch = read_reference(adm(tmp_path / "batch.npz", arr_0=LEVELS[:, :3, :3]))
    with pytest.raises(ConfigError, match=r"is of images of \[3, 3, 3\], here they are of \[4, 4, 3\]"):
        batch.check(inception)


@pytest.mark.parametrize("level", [0, 3, 255])
def test_images_that_look_alike_to_the_encoder_are_no_reference(tmp_path: Path, level: int):
    write_npz(
        tmp_path / "equal.npz", 40, (4, 4, 3), iter([np.full((40, 4, 4, 3), level, np.uint8)]), np.zeros(40, np.int64)
    )
    out, words = tmp_path / "reference.npz", r"all images look alike to the encoder pixels .*: give another encoder"
    with pytest.raises(InputError, match=rf"^reference: {words}"):
        make_reference(NpzImages(tmp_path / "equal.npz"), pixels(), out)
    assert [file.name for file in tmp_path.iterdir()] == ["equal.npz"]
    mu = np.full(48, level / 127.5 - 1)
    rounding = np.diag(np.square(1e-6 * mu))  # what float32 leaves
    for sigma in (np.zeros((48, 48)), rounding):
        np.savez(out, mu=mu, sigma=sigma)
        with pytest.raises(InputError, match=rf"^.*reference\.npz: {words}"):
            reference_judge(out, "pixels", (4, 4, 3), 3)
    good = {"mu": mu, "sigma": np.diag(np.square(1e-3 * mu))}
    equal = np.full((40, 4, 4, 3), level, np.uint8)
    for more in ({"arr_0": equal}, {"features": np.float32(mu) + np.zeros((40, 1), np.float32)}):
        np.savez(out, **good, **more)
        with pytest.raises(InputError, match=rf"^.*reference\.npz: {words}"):
            _ = reference_judge(out, "pixels", (4, 4, 3), 3).real
    np.savez(out, **good)
    with pytest.raises(InputError, match=rf"^.*equal\.npz: {words}"):
        _ = reference_judge(out, "pixels", (4, 4, 3), 3, tmp_path / "equal.npz").real
    assert reference_judge(out, "pixels", (4, 4, 3), 3).real.gaussian("features")[0][0] == mu[0]


def test_one_image_is_no_reference(tmp_path: Path):
    write_npz(tmp_path / "one.npz", 1, (4, 4, 3), iter([LEVELS[:1]]), np.zeros(1, np.int64))
    with pytest.raises(InputError, match=r"^reference: 1 image cannot be scored against: give at least 2 images$"):
        make_reference(NpzImages(tmp_path / "one.npz"), pixels(), tmp_path / "reference.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]
