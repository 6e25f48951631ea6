"""What can go wrong between us and the hub, each in one line that says what to do."""

import errno

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from drifting.errors import HubError, InputError, one_line

HOW_TO_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

HUB_FAILURES = (HTTPError, OSError, RuntimeError)
"""What huggingface_hub raises when something outside fails; its `ValueError` of a bad argument is not among them."""


def explained(error: BaseException, subject: str) -> InputError | HubError:
    """The error to raise in place of one of `HUB_FAILURES`: one line.

    Args:
        error: what huggingface_hub raised.
        subject: what was wanted, with which the line begins.

    Returns:
        `InputError` where the reference is wrong, `HubError` for everything that may be right another time.
    """
    if isinstance(error.__cause__, HUB_FAILURES):
        if isinstance(error, LocalEntryNotFoundError):
            return explained(error.__cause__, f"{subject}: not in the cache")
        if isinstance(error, RuntimeError):  # such as "Error while uploading": the cause says more
            return explained(error.__cause__, subject)
    wrong = _wrong_reference(error)
    return InputError(f"{subject}: {wrong}") if wrong else HubError(f"{subject}: {_failure(error)}")


def _wrong_reference(error: BaseException) -> str:
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        return ""
    if isinstance(error, RepositoryNotFoundError):
        return f"no such repository, or a private one: check its name, or {HOW_TO_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision: check what follows the @"
    if isinstance(error, RemoteEntryNotFoundError):
        return "the repository has no such file: check the folder"
    return ""


def _failure(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids the network: unset it"
    if isinstance(error, GatedRepoError):
        return f"access must be granted: ask for it on the page of the repository, then {HOW_TO_LOG_IN}"
    if isinstance(error, DisabledRepoError):
        return "the repository has been disabled"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        remedy = f"check the token's permissions, or {HOW_TO_LOG_IN}" if status in (401, 403) else "try again later"
        words = f" ({words_of(error.server_message)})" if error.server_message else ""
        return f"refused with HTTP {status}{words}: {remedy}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk: make room, or set HF_HOME to another one (now {constants.HF_HOME})"
    if isinstance(error, HTTPError):
        return f"no connection ({words_of(error)}): check the network and run the same command again"
    return f"{words_of(error)}: run the same command again"


def words_of(error: object) -> str:
    """What an error or its message says, without line breaks; its type where it says nothing."""
    return one_line(error) or type(error).__name__
