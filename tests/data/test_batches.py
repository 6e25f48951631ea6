"""Pipelines: every batch is a function of its position, and every image is read once an epoch."""

import itertools
import json
import threading

import numpy as np
import pytest

from drifting.data.batches import BatchIterator, ClassBalanced, Pipeline
from drifting.data.source import ArraySource
from drifting.data.sources.digits import digits


def numbered(n: int, classes: int = 1) -> ArraySource:
    """Image i is 1x2x1 with the values i and i + 1/2, so that a batch shows what was read and how."""
    images = np.arange(n, dtype=np.float32)[:, None, None, None] + np.array([0, 0.5], np.float32)[:, None]
    names = tuple(str(c) for c in range(classes))
    source = ArraySource(np.zeros(images.shape, np.float32), np.arange(n) % classes, names, name="numbered")
    source._images = images  # beyond [-1, 1], which arrays that are given must not be
    return source


def take(batches: BatchIterator, count: int | None = None) -> list[np.ndarray]:
    """The indices that the next `count` batches (None: all) show."""
    return [np.floor(b["image"][:, 0, 0, 0]).astype(int) for b in itertools.islice(batches, count)]


def make(kind: str, **options) -> BatchIterator:
    if kind == "balanced":
        return ClassBalanced(numbered(60, 5), 3, 4, **options)
    return Pipeline(numbered(23), 12, shuffle=kind == "shuffled", **options)


KINDS = ("shuffled", "ordered", "balanced")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_batches_have_images_and_labels_of_the_same_rows() -> None:
    source = digits()
    batch = next(Pipeline(source, 32, seed=0))
    assert batch.keys() == {"image", "label", "id"}
    assert batch["image"].shape == (32, 8, 8, 1) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (32,) and batch["label"].dtype == np.int32
    images, labels = source.__getitems__(Pipeline(source, 32, seed=0).indices(0))
    np.testing.assert_array_equal(batch["image"], images)
    np.testing.assert_array_equal(batch["label"], labels)


@pytest.mark.parametrize("batch_size", [1, 5, 7, 23])
def test_every_image_once_an_epoch_over_the_seams(batch_size: int) -> None:
    pipeline = Pipeline(numbered(23), batch_size, seed=3)
    stream = np.concatenate(take(pipeline, 4 * 23 // batch_size + 1))[: 4 * 23].reshape(4, 23)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(23), (4, 1)))
    assert len({tuple(epoch) for epoch in stream}) == 4  # each epoch in an order of its own
    assert not any(np.array_equal(epoch, np.arange(23)) for epoch in stream)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_finite_epochs_end_with_what_is_left(prefetch: int) -> None:
    pipeline = Pipeline(numbered(10), 4, seed=0, epochs=3, prefetch=prefetch)
    batches = take(pipeline)
    assert [len(b) for b in batches] == [4] * 7 + [2] and pipeline.num_batches == 8
    np.testing.assert_array_equal(np.bincount(np.concatenate(batches)), np.full(10, 3))
    assert pipeline.state() == {"position": 8}
    with pytest.raises(StopIteration):
        next(pipeline)


def test_unshuffled_is_in_the_order_of_the_source() -> None:
    stream = np.concatenate(take(Pipeline(numbered(10), 4, seed=0, shuffle=False), 5))
    np.testing.assert_array_equal(stream, np.tile(np.arange(10), 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_resumes_exactly_from_any_position(kind: str, prefetch: int) -> None:
    whole = list(itertools.islice(make(kind, seed=1, flip=True), 8))
    running = make(kind, seed=1, flip=True, prefetch=prefetch)
    for position in range(7):
        state = json.loads(json.dumps(running.state()))
        assert state == {"position": position}  # what the caller took, not what was prefetched
        resumed = make(kind, seed=1, flip=True, prefetch=prefetch)
        next(resumed)
        resumed.restore(state)
        assert resumed.state() == state
        assert all(same(a, b) for a, b in zip(whole[position:], resumed, strict=False))
        assert same(next(running), whole[position])
        assert same(resumed.batch(position), whole[position])
        resumed.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_share_one_global_order(kind: str, count: int) -> None:
    whole = list(itertools.islice(make(kind, seed=2, flip=True), 5))
    parts = [make(kind, seed=2, flip=True, process_index=p, process_count=count) for p in range(count)]
    for expected in whole:
        rows = [next(part) for part in parts]
        assert len({len(r["label"]) for r in rows}) == 1
        assert same(expected, {k: np.concatenate([r[k] for r in rows]) for k in expected})
    assert len({json.dumps(part.state()) for part in parts}) == 1


def test_processes_cover_a_last_partial_batch() -> None:
    parts = [Pipeline(numbered(9), 6, seed=0, epochs=1, flip=True, process_index=p, process_count=2) for p in range(2)]
    sizes = [[len(b) for b in batches] for batches in map(take, parts)]
    assert sizes == [[3, 3], [3, 0]]


@pytest.mark.parametrize("kind", ["shuffled", "balanced"])
def test_the_seed_sets_the_order(kind: str) -> None:
    orders = [np.concatenate(take(make(kind, seed=seed), 6)) for seed in (0, 0, 1, 2**40)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert len({tuple(o) for o in orders}) == 3


def test_no_epoch_of_one_seed_is_an_epoch_of_the_next() -> None:
    epochs = [take(Pipeline(numbered(50), 50, seed=seed), 3) for seed in range(3)]
    assert len({tuple(e) for run in epochs for e in run}) == 9


def test_flip_mirrors_about_half_of_the_images_and_nothing_else() -> None:
    plain, flipped = (Pipeline(numbered(500), 100, seed=0, flip=f) for f in (False, True))
    coins = []
    for a, b in itertools.islice(zip(plain, flipped, strict=False), 20):
        mirrored = np.array([np.array_equal(x[:, ::-1], y) for x, y in zip(a["image"], b["image"], strict=True)])
        kept = np.array([np.array_equal(x, y) for x, y in zip(a["image"], b["image"], strict=True)])
        assert np.all(mirrored ^ kept)
        np.testing.assert_array_equal(a["label"], b["label"])
        coins.append(mirrored)
    heads = np.array(coins)
    assert abs(heads.mean() - 0.5) < 5 * 0.5 / np.sqrt(heads.size)
    assert len(np.unique(heads, axis=0)) == 20  # fresh coins for every batch


def test_class_balanced_batches_are_grouped_and_without_repetition() -> None:
    source = digits()
    seen = np.zeros(10, int)
    batches = ClassBalanced(source, 5, 20, seed=0)
    for position in range(40):
        indices, batch = batches.indices(position), next(batches)
        labels = batch["label"].reshape(5, 20)
        assert np.all(labels == labels[:, :1]) and len(set(labels[:, 0].tolist())) == 5
        assert len(set(indices.tolist())) == 100
        np.testing.assert_array_equal(source.labels[indices], batch["label"])
        seen[labels[:, 0]] += 1
    assert seen.min() > 0 and abs(seen - 20).max() < 5 * np.sqrt(40 * 0.25)


def test_class_balanced_can_use_every_image_of_a_class() -> None:
    batch = take(ClassBalanced(numbered(12, 3), 3, 4, seed=0), 1)[0]
    np.testing.assert_array_equal(np.sort(batch), np.arange(12))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_failed_read_is_reported_and_can_be_tried_again(prefetch: int) -> None:
    class Failing(ArraySource):
        broken = True

        def read(self, indices, mirrored, crop_seeds):
            if self.broken and 9 in np.asarray(indices):
                raise ValueError("image 9 is damaged")
            return super().read(indices, mirrored, crop_seeds)

    whole = numbered(20)
    source = Failing(np.zeros((20, 1, 2, 1), np.float32), whole.labels, whole.class_names)
    source._images = whole._images
    pipeline = Pipeline(source, 4, seed=0, shuffle=False, prefetch=prefetch)
    assert len(take(pipeline, 2)) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="image 9 is damaged"):
            next(pipeline)
        assert pipeline.state() == {"position": 2}
    source.broken = False
    np.testing.assert_array_equal(take(pipeline, 1)[0], [8, 9, 10, 11])


def test_prefetch_reads_ahead_in_its_own_threads() -> None:
    reached = threading.Event()
    readers = set()

    class Watched(ArraySource):
        def read(self, indices, mirrored, crop_seeds):
            readers.add(threading.get_ident())
            if 4 in np.asarray(indices):
                reached.set()
            return super().read(indices, mirrored, crop_seeds)

    whole = numbered(20)
    source = Watched(np.zeros((20, 1, 2, 1), np.float32), whole.labels, whole.class_names)
    pipeline = Pipeline(source, 4, seed=0, shuffle=False, prefetch=2)
    next(pipeline)
    assert reached.wait(timeout=20)  # the second batch is read although only the first was asked for
    assert threading.get_ident() not in readers and pipeline.state() == {"position": 1}
    pipeline.close()


@pytest.mark.parametrize("crop", [False, True])
def test_what_was_delivered_can_be_read_again_by_its_number(crop: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (23, 6, 6, 1), dtype=np.uint8)
    source = ArraySource(images, np.zeros(23, np.int32), ("a",))
    pipeline = Pipeline(source, 5, seed=4, flip=True, random_crop=crop)
    batches = list(itertools.islice(pipeline, 12))
    delivered = np.concatenate([batch["image"] for batch in batches])
    ids = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(ids, np.arange(60))
    assert delivered.dtype == np.uint8 and ids.dtype == np.uint32
    wanted = np.array([59, 0, 7, 7, 31, 44], np.uint32)
    np.testing.assert_array_equal(pipeline.recall(wanted), delivered[wanted])
    np.testing.assert_array_equal(Pipeline(source, 5, seed=4, flip=True, random_crop=crop).recall(ids), delivered)
    second = Pipeline(source, 10, seed=4, flip=True, random_crop=crop, process_index=1, process_count=2)
    np.testing.assert_array_equal(second.batch(0)["id"], np.arange(5, 10))


def test_worker_processes_deliver_the_same_and_can_be_resumed() -> None:
    source = digits()
    whole = list(itertools.islice(Pipeline(source, 16, seed=1, flip=True), 6))
    pipeline = Pipeline(source, 16, seed=1, flip=True, workers=2)
    assert all(same(a, b) for a, b in zip(whole[:2], pipeline, strict=False))
    state = pipeline.state()
    pipeline.restore({"position": 4})
    batch = next(pipeline)
    assert same(batch, whole[4]) and state == {"position": 2}
    # No views of the memory shared with the workers: it would still be in use when the interpreter ends.
    assert {type(rows) for rows in batch.values()} == {np.ndarray} and batch["image"].base is None
    pipeline.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_are_placed_ahead_of_the_caller(prefetch: int) -> None:
    placed = []

    def place(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        placed.append(threading.get_ident())
        return {key: value + 1 for key, value in batch.items()}

    plain = Pipeline(numbered(23), 4, seed=0)
    pipeline = Pipeline(numbered(23), 4, seed=0, place=place, prefetch=prefetch)
    for expected, batch in itertools.islice(zip(plain, pipeline, strict=False), 5):
        assert same(batch, {key: value + 1 for key, value in expected.items()})
    assert pipeline.state() == {"position": 5}
    assert (threading.get_ident() in placed) == (prefetch == 0)
    pipeline.close()


def test_groups_of_a_class_and_of_any_class() -> None:
    """Labels in passes over the classes; few images are drawn with replacement; the others are of any class."""
    source = ArraySource(np.zeros((20, 1, 1, 1), np.float32), np.repeat([0, 1, 2], [2, 8, 10]), tuple("abc"))
    batches, drawn = ClassBalanced(source, 5, 4, seed=0, unconditional=3, prefetch=0), []
    for position in range(60):
        groups = batches.indices(position).reshape(5, 7)
        labels = source.labels[groups]
        assert np.all(labels[:, :4] == labels[:, :1])
        assert set(labels[:3, 0]) == {0, 1, 2} and len(set(labels[3:, 0])) == 2
        for group, label in zip(groups, labels[:, 0], strict=True):
            assert len(set(group[:4])) == 4 or label == 0
            assert len(set(group[4:])) == 3
        drawn.append(groups[:, 4:])
    counts = np.bincount(np.concatenate(drawn).ravel(), minlength=20)
    assert counts.min() > 0 and abs(counts - 45).max() < 5 * np.sqrt(45)
    parts = [ClassBalanced(source, 4, 4, 0, unconditional=3, process_index=p, process_count=2) for p in range(2)]
    whole = ClassBalanced(source, 4, 4, 0, unconditional=3).indices(7)
    np.testing.assert_array_equal(np.concatenate([part.indices(7) for part in parts]), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be positive"),
        ({"batch_size": -2}, "batch_size=-2: must be positive"),
        ({"batch_size": 11}, "batch_size=11: exceeds the 10 images of 'numbered'"),
        ({"seed": -1}, "seed=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"process_index": 2, "process_count": 2}, "process_index=2"),
        ({"process_count": 3}, "multiple of process_count=3"),
    ],
)
def test_pipeline_refuses_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Pipeline(numbered(10), **{"batch_size": 4, "seed": 0} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "classes_per_batch=0"),
        ((3, 0), "samples_per_class=0"),
        ((3, 2, -1), "unconditional=-1"),
    ],
)
def test_class_balanced_refuses_in_one_line(arguments: tuple[int, ...], message: str) -> None:
    classes, samples, *unconditional = arguments
    options = {"unconditional": unconditional[0]} if unconditional else {}
    with pytest.raises(ValueError, match=message):
        ClassBalanced(numbered(10, 3), classes, samples, seed=0, **options)


@pytest.mark.parametrize("state", [{}, {"position": -1}, {"position": 4}, {"position": 1.5}, {"position": None}])
def test_restore_refuses_what_is_no_position(state: dict) -> None:
    pipeline = Pipeline(numbered(10), 5, seed=0, epochs=1)
    with pytest.raises(ValueError, match="position="):
        pipeline.restore(state)
    assert len(take(pipeline)) == 2
