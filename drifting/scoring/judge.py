"""What images are scored against, whichever real images those are: statistics of them, or a run's own data."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from drifting.errors import counted
from drifting.runs.shared_work import Share
from drifting.sampling.images import Images
from drifting.scoring.extraction import features_of, saved_features
from drifting.scoring.image_features import FeaturesByKind, ScoreEncoder
from drifting.scoring.metrics import ImageSet
from drifting.scoring.scores import Scores, beside_heldout, scores_of

logger = logging.getLogger("drifting")

PUBLISHED_IMAGES = 50_000
"""Images that published scores are of."""


class Judge:
    """Real images in the features of one encoder, against which others get their scores.

    Args:
        name: what warnings call the real images.
        encoder: takes the features of both.
        neighbours: the nearest neighbour that some metrics look at.
        facts: what scores depend on besides the images that are scored, JSON-able.
        real: makes the real images' side when it is first needed.
        heldout: makes that of real images which the generator was not trained on; None: there are none.
    """

    def __init__(
        self,
        name: str,
        encoder: ScoreEncoder,
        neighbours: int,
        facts: dict[str, Any],
        real: Callable[[], ImageSet],
        heldout: Callable[[], ImageSet] | None = None,
    ) -> None:
        self.name, self.encoder, self.neighbours, self.facts = name, encoder, neighbours, facts
        self._make_real, self._make_heldout = real, heldout

    @cached_property
    def real(self) -> ImageSet:
        """The real images."""
        return self._make_real()

    @cached_property
    def heldout_scores(self) -> Scores | None:
        """The scores of held-out real images. None: there are none."""
        return None if self._make_heldout is None else self._scores(self._make_heldout())

    def side(self, images: Images, label: str) -> ImageSet:
        """Images in the judge's features. `label`: what the progress bar calls them."""
        return self._side(images, features_of(images, self.encoder, label))

    def scores(
        self, images: Images, work: Path | None = None, share: Share | None = None, out: Path | None = None
    ) -> Scores | None:
        """Scores of images, beside those of held-out ones where there are any.

        Args:
            images: what is scored, at least two.
            work: a folder for what is under way, from which another call goes on; the caller removes it; None: nothing
                is kept.
            share: which of several processes with the same `work` this is.
            out: what messages call what is under way; None: `work`.

        Returns:
            The scores, or None while parts of other processes are missing.

        Raises:
            ConfigError: other images are under way in that folder.
            InputError: the real images cannot be scored against, see `check_variance`.
            ValueError: a feature is not finite.
        """
        share = share or Share()
        if share.count == 1:
            _ = self.real  # real images that are no good are found before any image is drawn
        if work is None:
            return self.of_side(self.side(images, "evaluate"))
        features = saved_features(images, self.encoder, work, share, out or work)
        return None if features is None else self.of_side(self._side(images, features))

    def of_side(self, fake: ImageSet) -> Scores:
        """Scores of images in the judge's features."""
        scores = self._scores(fake)
        if "fid" in scores and len(fake) < PUBLISHED_IMAGES:
            images = counted(len(fake), "image")
            logger.warning("FID of %s: it falls with their number, compare equal ones only", images)
        return scores if self.heldout_scores is None else beside_heldout(scores, self.heldout_scores)

    def _scores(self, fake: ImageSet) -> Scores:
        return scores_of(self.real, fake, self.neighbours, self.name)

    def _side(self, images: Images, features: FeaturesByKind) -> ImageSet:
        return ImageSet(features, labels=images.labels, encoder=self.encoder.name)
