"""Compiled programs that are kept on disk, where several processes train together."""

import logging
import uuid
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from drifting.devices.processes import agreed, everyones, is_writer, wait_for_all

logger = logging.getLogger("drifting")


def keep_if_shared() -> None:
    """Keeps compiled programs only where all processes of this job see the same folder.

    Only process 0 writes them. If it found one that the others have to compile, they would wait in vain for its share
    of the trials by which a GPU's kernels are chosen.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if jax.process_count() == 1 or not jax.config.values["jax_enable_compilation_cache"]:
        return
    token = agreed(uuid.uuid4().int % 2**30)
    mark = Path(folder or "", f".seen-{token}")
    if is_writer() and folder:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    wait_for_all("compiled programs written")
    shared = all(everyones(int(bool(folder) and mark.exists())))
    if is_writer():
        mark.unlink(missing_ok=True)
        if folder and not shared:
            logger.info("compiled programs are not kept: the processes do not share %s", folder)
    if not shared:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # this makes JAX look at that setting again
