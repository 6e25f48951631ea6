"""The sample bank against a plain Python restatement, and the law of its draws."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from drifting.method import bank as banks

C, K = 5, 7


def numbered(bank: banks.Bank, values: np.ndarray, labels: np.ndarray) -> banks.Bank:
    """The values pushed under the numbers 0, 1, ..."""
    return banks.push(bank, values, labels, np.arange(len(labels)))


@pytest.fixture(scope="module")
def push():
    return jax.jit(banks.push)


@pytest.fixture(scope="module")
def sample():
    return jax.jit(banks.sample, static_argnums=3)


def contents(bank: banks.Bank) -> list[list[float]]:
    """Every class, oldest first: what a deque would hold."""
    rings, pushed, held = np.asarray(bank.samples), np.asarray(bank.pushed), np.asarray(banks.fill(bank))
    out = []
    for ring, cursor, n in zip(rings, pushed % bank.capacity, held, strict=True):
        out.append(list(np.roll(ring, -cursor, axis=0) if n == bank.capacity else ring[:n]))
    return out


def filled(counts: list[int], capacity: int) -> banks.Bank:
    """A bank whose class `c` holds the values `100 c + 1, 100 c + 2, …`, `counts[c]` of them."""
    labels = np.repeat(np.arange(len(counts)), counts)
    values = np.concatenate([100.0 * c + 1 + np.arange(n) for c, n in enumerate(counts)])
    return jax.jit(numbered)(banks.empty_bank(len(counts), capacity, ()), values, labels)


@pytest.mark.parametrize("batch", [1, 6, 40])
def test_push_is_a_deque_per_class(push, batch):
    """Random pushes, with duplicates, more than K of a class at once (batch 40), padding and labels out of range."""
    rng = np.random.default_rng(batch)
    bank = banks.empty_bank(C, K, (2,))
    want = [deque(maxlen=K) for _ in range(C)]
    serial = 1.0
    for _ in range(60):
        labels = rng.choice([*range(C), 0, 0, -1, C, C + 3], batch)
        values = serial + np.arange(batch)
        serial += batch
        bank = push(bank, np.stack([values, -values], axis=1), labels, values.astype(np.uint32) + 7)
        valid = np.arange(K) < np.asarray(banks.fill(bank))[:, None]
        np.testing.assert_array_equal(bank.ids, np.where(valid, bank.samples[..., 0] + 7, 0))
        for value, label in zip(values, labels, strict=True):
            if 0 <= label < C:
                want[label].append(value)
        got = contents(bank)
        for c in range(C):
            np.testing.assert_array_equal(
                np.asarray(got[c]).reshape(-1, 2), np.array([[v, -v] for v in want[c]]).reshape(-1, 2)
            )
    assert int(bank.pushed.max()) < 2 * K  # the folded counter cannot grow, let alone overflow


def test_samples_of_one_push_take_consecutive_slots(push):
    bank = push(banks.empty_bank(2, 8, ()), np.arange(1.0, 7.0), np.array([1, 0, 1, 1, 0, 1]), np.arange(6))
    np.testing.assert_array_equal(bank.samples[1], [1, 3, 4, 6, 0, 0, 0, 0])
    np.testing.assert_array_equal(bank.samples[0], [2, 5, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(banks.fill(bank), [2, 4])


def test_no_slot_is_written_twice_in_one_push():
    """The last of several writes to a slot wins only by luck: on an accelerator a scatter has no order."""
    rng = np.random.default_rng(0)
    plan = jax.jit(banks.ring_slots, static_argnums=2)
    for _ in range(20):
        labels = rng.choice([-1, 0, 0, 0, 1, 2, 3], 40)
        order, label, slot, _ = plan(jnp.asarray(rng.integers(0, 2 * K, 3), jnp.int32), jnp.asarray(labels), K)
        np.testing.assert_array_equal(np.sort(order), np.arange(40))
        written = [(int(c), int(k)) for c, k in zip(label, slot, strict=True) if c < 3]
        assert len(written) == len(set(written)) == sum(min(K, int((labels == c).sum())) for c in range(3))


def test_unconditional_bank_keeps_the_last_samples(push):
    bank = banks.empty_bank(1, 4, ())
    for start in range(0, 30, 3):
        bank = push(bank, np.arange(start, start + 3.0), np.zeros(3, np.int32), np.arange(3))
    assert contents(bank)[0] == [26, 27, 28, 29]


def test_push_casts_and_accepts_an_empty_batch():
    bank = banks.empty_bank(2, 3, (), jnp.uint8)
    bank = numbered(bank, np.array([200.0]), np.array([1]))
    assert bank.samples.dtype == jnp.uint8 and bank.samples[1, 0] == 200
    same = numbered(bank, np.zeros((0,)), np.zeros((0,), np.int32))
    np.testing.assert_array_equal(same.samples, bank.samples)


def test_push_under_donation_writes_in_place():
    bank = banks.empty_bank(64, 32, (16, 16))
    size = bank.words.nbytes
    values, labels = np.ones((4, 16, 16), np.float32), np.array([3, 3, 9, 63])
    compiled = jax.jit(numbered, donate_argnums=0).lower(bank, values, labels).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 8
    new = compiled(bank, jnp.asarray(values), jnp.asarray(labels))
    assert bank.words.is_deleted()
    assert float(new.samples.sum()) == 4 * 16 * 16
    np.testing.assert_array_equal(np.asarray(banks.fill(new))[[3, 9, 63]], [2, 1, 1])


def test_bank_is_a_pytree_of_named_arrays():
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(banks.empty_bank(2, 3, (4,)))
    ]
    assert paths == [".words", ".ids", ".pushed"]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_draws_have_no_repeats_where_the_class_holds_enough(sample, count):
    bank = filled([7, 12, 9], K)  # 7 exactly full; the others have wrapped
    labels = jnp.array([0, 1, 2, 1] * 50)
    got = np.asarray(sample(bank, jax.random.key(0), labels, count))
    assert got.shape == (200, count)
    held = [set(c) for c in contents(bank)]
    for row, label in zip(got, np.asarray(labels), strict=True):
        assert len(set(row)) == count and set(row) <= held[label]


@pytest.mark.parametrize("counts,count", [([3, 1, 5], 6), ([7, 2, 9], 20)])
def test_draws_repeat_only_what_the_class_holds(sample, counts, count):
    """Fewer held than asked for, the second case with more asked for than the capacity."""
    bank = filled(counts, K)
    labels = np.array([0, 1, 2] * 40)
    got = np.asarray(sample(bank, jax.random.key(1), labels, count))
    held = [set(c) for c in contents(bank)]
    for c in range(3):
        rows = got[labels == c]
        assert set(rows.ravel()) == held[c]  # everything is reachable and nothing else: no unfilled slot, no zero


@pytest.mark.parametrize("held,count", [(6, 3), (6, 6), (7, 2), (4, 5), (5, 9)])
def test_draws_are_uniform(sample, held, count):
    """Each place of a row is uniform over what the class holds, and so is each pair of places."""
    rows = 6000
    bank = filled([2, held], K)
    draws = np.asarray(sample(bank, jax.random.key(2), jnp.ones(rows, jnp.int32), count), np.int64) - 101
    for place in range(count):
        assert stats.chisquare(np.bincount(draws[:, place], minlength=held)).pvalue > 1e-4
    if count > 1:
        pairs = np.bincount(draws[:, 0] * held + draws[:, 1], minlength=held * held).reshape(held, held)
        if held >= count:
            assert not np.diag(pairs).any()
            pairs = pairs[~np.eye(held, dtype=bool)]
        assert stats.chisquare(pairs.ravel()).pvalue > 1e-4


def test_equal_labels_get_independent_draws(sample):
    bank = filled([6], 6)
    pairs = np.zeros((6, 6))
    draws = np.asarray(sample(bank, jax.random.key(3), jnp.zeros(4000, jnp.int32), 3), np.int64) - 1
    np.add.at(pairs, (draws[0::2, 0], draws[1::2, 0]), 1)
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
    again = np.asarray(sample(bank, jax.random.key(4), jnp.zeros(4000, jnp.int32), 3), np.int64) - 1
    assert 0.05 < (draws[:, 0] == again[:, 0]).mean() < 0.3  # another key, other draws (1/6 agree by chance)


def test_an_empty_or_unknown_class_is_never_read_as_zeros(sample):
    bank = filled([4, 0, 4], K)
    got = np.asarray(sample(bank, jax.random.key(5), jnp.array([0, 1, 2, -1, 3]), 3))
    assert np.isfinite(got[[0, 2]]).all() and (got[[0, 2]] > 0).all()
    assert np.isnan(got[[1, 3, 4]]).all()


def test_samples_keep_shape_and_dtype(sample):
    bank = numbered(banks.empty_bank(2, 3, (2, 2, 1), jnp.bfloat16), np.ones((2, 2, 2, 1)), np.array([0, 1]))
    got = sample(bank, jax.random.key(0), jnp.array([1, 0, 1]), 2)
    assert got.shape == (3, 2, 2, 2, 1) and got.dtype == jnp.bfloat16


def test_check_filled():
    banks.check_filled(np.array([1, 4, 2]))
    banks.check_filled(np.array([4, 4]), needed=4)
    with pytest.raises(ValueError, match=r"2 of 4 classes hold fewer than 1 .* 1 \(0\), 3 \(0\);.*push more"):
        banks.check_filled(np.array([3, 0, 5, 0]))
    with pytest.raises(ValueError, match=r"dog \(2\)"):
        banks.check_filled(np.array([3, 2]), needed=3, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"8 of 8 .* and 3 more"):
        banks.check_filled(np.zeros(8, int))


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused():
    bank = banks.empty_bank(2, 3, (4,))
    with pytest.raises(ValueError, match="capacity=0"):
        banks.empty_bank(2, 0, (4,))
    with pytest.raises(ValueError, match="cannot push"):
        numbered(bank, np.zeros((2, 5)), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="cannot push"):
        numbered(bank, np.zeros((2, 4)), np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match="count 0"):
        banks.sample(bank, jax.random.key(0), jnp.zeros(1, jnp.int32), 0)
