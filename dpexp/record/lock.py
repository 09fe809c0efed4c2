"""One writer for one run folder."""

import errno
import fcntl
import os
import socket
from pathlib import Path

from dpexp.errors import RunFolderError
from dpexp.record.strict_json import writing

# File systems without locks (some network mounts) say one of these; there we go on unlocked.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class FolderLock:
    """Holds a run folder for this process, until `release` or the end of the process.

    A lock of the operating system on the file `.lock`, not the presence of a file: one that a
    killed process left behind hinders nobody.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            RunFolderError: If another process, or another part of this one, holds it.
        """
        self._path = folder / ".lock"
        with writing(self._path):
            self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 200, 0).decode("utf-8", "replace").strip()
            self._close()
            raise RunFolderError(
                f"{folder} is in use by {holder or 'another process'}; two writers would mix "
                f"their records; wait for that run to end, or stop it"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self._close()
                with writing(self._path):
                    raise
        with writing(self._path):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        """Let others write; a second call does nothing."""
        if self._file is not None:
            # Explicitly: a forked worker that still has the file open would keep the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
