"""The names of ImageNet's classes, and what its validation images show."""

import re
from collections import Counter

WORDNET_ID = re.compile(r"n\d{8}")


def readable(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """English names where all of the given ones are WordNet ids of ImageNet-1k; otherwise the given ones.

    The ids sorted are the order of ImageNet-1k. The English names are those that tensorflow_datasets carries: of each
    class its first (`macaw`), or all in one, without commas, where two classes share the first.
    """
    if not class_names or not all(map(WORDNET_ID.fullmatch, class_names)):
        return class_names
    # Here, because few need it and it takes a second.
    from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

    ids = _words("labels.txt")
    firsts = Counter(synonyms.split(",")[0] for synonyms in IMAGENET_LABELS_LIST)
    names = {
        wordnet_id: first if firsts[first := synonyms.split(",")[0]] == 1 else synonyms.replace(",", "")
        for wordnet_id, synonyms in zip(ids, IMAGENET_LABELS_LIST, strict=True)
    }
    return tuple(names[name] for name in class_names) if names.keys() >= set(class_names) else class_names


def validation_ids() -> list[str]:
    """The WordNet ids of the 50,000 validation images of ImageNet-1k (ILSVRC2012), in the order of their numbers."""
    return _words("validation_labels.txt")


def _words(name: str) -> list[str]:
    """The words of a file about ImageNet that tensorflow_datasets carries."""
    from importlib.resources import files

    return files("tensorflow_datasets").joinpath("datasets/imagenet2012", name).read_text().split()
