"""The names of ImageNet's classes."""

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
    from importlib.resources import files

    from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

    ids = files("tensorflow_datasets").joinpath("datasets/imagenet2012/labels.txt").read_text().split()
    firsts = Counter(synonyms.split(",")[0] for synonyms in IMAGENET_LABELS_LIST)
    names = {
        wordnet_id: first if firsts[first := synonyms.split(",")[0]] == 1 else synonyms.replace(",", "")
        for wordnet_id, synonyms in zip(ids, IMAGENET_LABELS_LIST, strict=True)
    }
    return tuple(names[name] for name in class_names) if names.keys() >= set(class_names) else class_names
