"""Writing folders so that they appear whole or not at all.

A folder is written beside its place, flushed to disk, and then exchanged with what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from world4rl_gym.reading import WorldModelError, reason_of

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, with a newline at its end; NaN is a ValueError."""
    path.write_bytes((json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, readable to whom the process's umask allows."""
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    path.write_bytes(safetensors.torch.save(plain))


@contextlib.contextmanager
def replaced_folder(folder: Path, allowed: Collection[str]) -> Iterator[Path]:
    """Gives an empty folder that takes the place of `folder` at the end, whole or not at all.

    When the block fails, on a full disk for example, what was there before stays as it was.

    Args:
        folder: The folder to be; a link to a folder is followed.
        allowed: Names of the files and folders that may be lost with what was there. A folder that
            holds anything else is not replaced.

    Raises:
        WorldModelError: It cannot be written, or holds other things.
    """
    folder = Path(os.path.realpath(folder))
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        if folder.exists() and not folder.is_dir():
            raise WorldModelError(f"{folder}: expected a folder, found a file")
        for other in sorted({p.name for p in folder.iterdir()} if folder.exists() else set()):
            if other not in allowed:
                raise WorldModelError(
                    f"{folder}: is not replaced, for it holds {other!r}; choose another folder"
                )
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            _flush(path)
        _exchange(fresh, folder)
        _flush(folder.parent)
    except OSError as error:
        raise WorldModelError(f"{folder}: cannot be written ({reason_of(error)})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes one file so that it appears whole or not at all, and its folder where it is missing.

    Raises:
        OSError: It cannot be written; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        partial.write_bytes(data)
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _exchange(fresh: Path, folder: Path) -> None:
    """Puts `fresh` where `folder` is; what was there is where `fresh` was, or gone.

    Linux exchanges two folders at once; elsewhere there is a moment without any.
    """
    if not folder.exists():
        os.rename(fresh, folder)
        return
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux
        renameat2 = None
    if renameat2 is not None:
        names = os.fsencode(fresh), os.fsencode(folder)
        if not renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV):
            raise OSError(code, os.strerror(code))
    old = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    _move(folder, old)
    try:
        os.rename(fresh, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _move(folder: Path, to: Path) -> None:
    """Renames a folder, or copies it where an overlay file system cannot rename it."""
    try:
        os.rename(folder, to)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    try:
        shutil.copytree(folder, to, symlinks=True)
    except OSError:
        shutil.rmtree(to, ignore_errors=True)
        raise
    try:
        shutil.rmtree(folder)
    except OSError:
        shutil.copytree(to, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(to, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    if path.is_symlink():
        return
    # Windows flushes only what may be written to, and opens no folder.
    folder = path.is_dir()
    writable = not folder and os.access(path, os.W_OK)
    try:
        handle = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
