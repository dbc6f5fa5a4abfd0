"""World-model and policy folders on the Hugging Face Hub: finding, downloading, uploading.

Only named files travel; the Hub's cache and its client's variables (`HF_HUB_OFFLINE`,
`HF_HUB_ETAG_TIMEOUT`, `HF_TOKEN`) are honoured. What the files hold is
checked by those who read them.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from world4rl_gym.model_index import INDEX_FILE
from world4rl_gym.pretrained import PretrainedModel, find_named, list_pretrained
from world4rl_gym.reading import LARGEST_JSON, StrictFolder, WorldModelError, reason_of, shown

EMBEDDED = Path(__file__).parent / "assets" / "world_model"

_LARGEST_DOWNLOAD = 2**29
_SECONDS_TO_ANSWER = 4.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,250}", re.ASCII)
_LOGIN = (
    "log in with `hf auth login` or set HF_TOKEN; a gated repository also wants its terms "
    "accepted, on its page"
)
_WAY_ON = "world_model=None uses the model embedded in the package"


def find_folder(
    source: str | os.PathLike[str] | None,
    revision: str | None,
    local_files_only: bool,
    names: Sequence[str],
) -> Path:
    """Finds a folder: the embedded world model (None), one on disk, a listed name, or a Hub id.

    What exists as a folder is taken as one.

    Args:
        source: None, a folder, a name of `list_pretrained()`, or `owner/name` on the Hub.
        revision: Branch, tag or commit on the Hub.
        local_files_only: Use the Hub's cache alone, without any network call.
        names: The files that may be downloaded.

    Raises:
        WorldModelError: It cannot be had, or a revision is given and it is not on the Hub; the
            message says what was tried.
    """
    if source is None:
        return _unrevised(EMBEDDED, revision)
    named = find_named(source) if isinstance(source, str) else None
    if named is not None and not Path(source).is_dir():
        return _find_named_folder(named, revision, local_files_only, names)
    known = f", and not one of the pretrained models ({', '.join(list_pretrained())}); {_WAY_ON}"
    return find_repository("world_model", source, revision, local_files_only, names, known)


def find_repository(
    field: str,
    source: object,
    revision: str | None,
    local_files_only: bool,
    names: Sequence[str],
    known: str = "",
) -> Path:
    """Finds a folder on disk, or brings a repository from the Hub.

    Args:
        field: What is looked for, for messages.
        source: A folder, or `owner/name` on the Hub.
        revision: Branch, tag or commit on the Hub.
        local_files_only: Use the Hub's cache alone, without any network call.
        names: The files that may be downloaded.
        known: What else it might have been, for messages.

    Raises:
        WorldModelError: It cannot be had; the message says what was tried.
    """
    if not isinstance(source, (str, os.PathLike)) or isinstance(os.fspath(source), bytes):
        raise WorldModelError(f"{field}: expected a folder or a Hub id, got {shown(source)}")
    text = os.fspath(source)
    if not text:
        raise WorldModelError(f"{field}: expected a folder or a Hub id, got ''")
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return _unrevised(path, revision)
        if path.exists():
            raise WorldModelError(f"{text}: expected a folder, found a file")
    except (OSError, RuntimeError) as error:
        raise WorldModelError(f"{text!r:.300}: cannot be read ({reason_of(error)})") from None
    if not isinstance(source, str) or not _ID.fullmatch(text) or ".." in text:
        raise WorldModelError(
            f"{text!r:.300}: no such folder, not a Hub id of the form owner/name{known}"
        )
    return download(text, revision, local_files_only, names)


def _unrevised(folder: Path, revision: str | None) -> Path:
    if revision is not None:
        raise WorldModelError(
            f"revision: only a Hub id has one, and {folder} is a folder; got {shown(revision)}"
        )
    return folder


def _find_named_folder(
    named: PretrainedModel, revision: str | None, local_files_only: bool, names: Sequence[str]
) -> Path:
    if named.repo_id is None:
        return _unrevised(EMBEDDED, revision)
    if revision not in (None, named.revision):
        raise WorldModelError(
            f"revision: {named.name!r} stands for {named.revision}; for another one, give "
            f"{named.repo_id!r}"
        )
    folder = download(named.repo_id, named.revision, local_files_only, names)
    files = StrictFolder(folder)
    files.read_bytes(INDEX_FILE, LARGEST_JSON)
    if files.digests[INDEX_FILE] != named.index_sha256:
        raise WorldModelError(
            f"{folder / INDEX_FILE}: its SHA-256 is not the one listed for {named.name!r}"
        )
    return folder


def download(
    repo_id: str, revision: str | None, local_files_only: bool, names: Sequence[str]
) -> Path:
    """Brings the named files of a repository into the Hub's cache.

    Where the Hub does not say which commit it has, what the cache holds is taken, with a warning.
    It has 4 seconds to answer, or `HF_HUB_ETAG_TIMEOUT`.

    Args:
        repo_id: `owner/name`.
        revision: Branch, tag or commit; None is the main branch.
        local_files_only: Make no network call.
        names: The files; others are never downloaded.

    Returns:
        The snapshot's folder.

    Raises:
        WorldModelError: It cannot be had, or its files are too large.
    """
    if revision is not None and (
        not isinstance(revision, str) or not _REVISION.fullmatch(revision) or ".." in revision
    ):
        raise WorldModelError(f"revision: expected a branch, tag or commit, got {shown(revision)}")
    from huggingface_hub import constants, snapshot_download

    offline = local_files_only or constants.HF_HUB_OFFLINE
    answer = _Answer(None, False, "HF_HUB_OFFLINE is set, or the cache alone was asked for")
    if not offline:
        answer = _ask(repo_id, revision, names)
    try:
        folder = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                local_files_only=not answer.reached,
                allow_patterns=list(names),
            )
        )
    except Exception as error:  # whatever the client, or the network library below it, raises
        reason = reason_of(error) if answer.reached else f"{answer.reason}, and the cache lacks it"
        raise WorldModelError(
            f"{repo_id}: no such folder, and not to be had from the Hub"
            f"{f' at revision {revision}' if revision else ''} ({reason}{_login(error)}); {_WAY_ON}"
        ) from None
    if not offline and folder.name not in (answer.commit, revision):
        warnings.warn(
            f"{repo_id}: {answer.reason}; the cache's commit {folder.name} is used, which may be "
            f"older than {revision or 'main'}",
            stacklevel=2,
        )
    return folder


class _Answer(NamedTuple):
    """What the Hub said of a revision: its commit; or None, whether it answered at all, and why."""

    commit: str | None
    reached: bool
    reason: str


def _ask(repo_id: str, revision: str | None, names: Sequence[str]) -> _Answer:
    """Asks the Hub, for some seconds; what it says must be a folder of bearable size."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    if seconds == constants.DEFAULT_ETAG_TIMEOUT and "HF_HUB_ETAG_TIMEOUT" not in os.environ:
        seconds = _SECONDS_TO_ANSWER
    try:
        info = _within(
            seconds,
            lambda: HfApi().model_info(
                repo_id, revision=revision, files_metadata=True, timeout=seconds
            ),
        )
    except HfHubHTTPError as error:  # it answers; the client knows what each refusal means
        return _Answer(None, True, f"the Hub refused ({reason_of(error)}{_login(error)})")
    except Exception as error:  # no route, no answer in time: only the cache is left
        reason = f"the Hub was not reached within {seconds:g} s ({reason_of(error)})"
        return _Answer(None, False, reason)
    sizes = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if any(fnmatch.fnmatchcase(file.rfilename, name) for name in names)
    }
    if not any(name.endswith(".safetensors") for name in sizes):
        raise WorldModelError(
            f"{repo_id}: holds none of the safetensors files expected; pickles (.bin, .pt) are "
            f"never loaded; {_WAY_ON}"
        )
    total = sum(sizes.values())
    if total > _LARGEST_DOWNLOAD:
        raise WorldModelError(
            f"{repo_id}: size: expected at most {_LARGEST_DOWNLOAD} bytes, got {total}"
        )
    return _Answer(info.sha, True, f"the Hub has commit {info.sha}, which was not had")


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a call returns or raises; TimeoutError after so long, whatever the call waits for."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # an executor would wait for it at exit
    return future.result(timeout=seconds)


def _login(error: BaseException | None) -> str:
    """How to log in, where an error, or what caused it, is that the Hub lets not everyone in."""
    while error is not None:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            return f"; {_LOGIN}"
        error = error.__cause__
    return ""


def upload(
    folder: Path,
    names: Sequence[str],
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    message: str = "Upload with world4rl-gym",
) -> str:
    """Uploads the named files of a folder as one commit, with the Hub client's progress bars.

    The repository and the branch are made where they are missing. Run again after an interruption,
    it sends only what the Hub lacks.

    Args:
        folder: The folder.
        names: The files.
        repo_id: `owner/name`.
        revision: Branch; None is the main branch.
        private: Whether a new repository is private.
        message: The commit's message.

    Returns:
        The commit's hash.

    Raises:
        WorldModelError: The Hub refuses or cannot be reached.
    """
    if not isinstance(repo_id, str) or not _ID.fullmatch(repo_id) or ".." in repo_id:
        raise WorldModelError(f"repo_id: expected owner/name, got {shown(repo_id)}")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in names]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, num_threads=2
        )
    except Exception as error:  # whatever the client, or the network library below it, raises
        cause = error.__cause__
        reason = f"{reason_of(error)}; {reason_of(cause)}" if cause else reason_of(error)
        raise WorldModelError(
            f"{repo_id}: was not uploaded ({reason}{_login(error)}); "
            "the same command goes on from there"
        ) from None
    return commit.oid
