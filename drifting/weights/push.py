"""Puts an artifact on the hub."""

import os
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token, parse_hf_uri
from huggingface_hub.errors import HfUriError

from drifting.errors import HubError, InputError, as_argument, require_argument
from drifting.weights.card import CARD_FILE, EXAMPLE_REPO
from drifting.weights.download import HUB_SCHEME
from drifting.weights.errors import HOW_TO_LOG_IN, HUB_FAILURES, explained, words_of
from drifting.weights.load import load_folder


def push_weights(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    revision: str | None = None,
    private: bool = False,
    message: str | None = None,
) -> str:
    """Upload an artifact's folder, in any format that `load_folder` reads, to the root of a repository.

    The repository and the branch are made if they are missing. Everything in the folder is uploaded, a `README.md`
    among it, in which the repository's name takes the place of `card.EXAMPLE_REPO`; files of the repository that the
    folder lacks stay.

    Args:
        folder: the artifact, read and checked before anything is sent.
        repo: `OWNER/NAME`.
        revision: the branch; None = the default one.
        private: whether a new repository is private; one that exists stays as it is.
        message: the message of the commit; None says what is uploaded.

    Returns:
        The address of the repository, or of the branch in it.

    Raises:
        ArgumentError: the folder is no whole artifact, or `repo` is no such name.
        InputError: its README cannot be read.
        HubError: no token, no permission or no network.
    """
    folder = Path(folder).expanduser()
    with as_argument("folder", folder):
        artifact = load_folder(folder)
    _check_name(repo)
    if get_token() is None:
        raise HubError(f"{repo}: nobody is logged in: {HOW_TO_LOG_IN}")
    message = message or f"{artifact.kind}, step {artifact.metadata.get('step')}"
    api = HfApi(library_name="drifting")
    try:
        url = str(api.create_repo(repo, private=private, exist_ok=True))
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
            url = f"{url}/tree/{revision}"
        api.create_commit(repo, _operations(folder, repo), revision=revision, commit_message=message)
    except HUB_FAILURES as error:
        raise explained(error, repo) from error
    except ValueError as error:  # the README's front matter, which the hub checks first
        raise InputError(f"{repo}: {words_of(error)}") from error
    return url


def _operations(folder: Path, repo: str) -> list[CommitOperationAdd]:
    """Every file of the folder, the README with the repository's name."""
    operations = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content: Path | bytes = path
        if path == folder / CARD_FILE:
            text, own = path.read_text(encoding="utf-8"), f"# {EXAMPLE_REPO.rpartition('/')[2]}\n"
            content = text.replace(own, f"# {repo.rpartition('/')[2]}\n").replace(EXAMPLE_REPO, repo).encode()
        operations.append(CommitOperationAdd(str(path.relative_to(folder)), content))
    return operations


def _check_name(repo: str) -> None:
    try:
        uri = parse_hf_uri(f"{HUB_SCHEME}{repo}")
    except HfUriError:
        uri = None
    is_name = uri is not None and uri.type == "model" and not uri.revision and not uri.path_in_repo
    require_argument(is_name, "repo", repo, "give the repository as OWNER/NAME")
