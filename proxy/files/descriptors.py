"""Open files by descriptor, on each system: others may rename and delete them meanwhile."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes
    from threading import Lock

    _create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create.restype = wintypes.HANDLE
    _create.argtypes = (
        *(wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID),
        *(wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE),
    )
    _READ, _READ_AND_WRITE = 0x80000000, 0xC0000000
    _SHARED_FOR_ALL, _OPEN_EXISTING, _NORMAL = 0x7, 3, 0x80
    _reading = Lock()

    def _open(path: Path, access: int, flags: int) -> int:
        """Open a file as POSIX does; `os.open` would not let it be renamed or deleted."""
        handle = _create(str(path), access, _SHARED_FOR_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if handle is None or handle == wintypes.HANDLE(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(handle, flags | os.O_BINARY)

    def open_to_read(path: Path) -> int:
        """A descriptor that the caller closes. Raises `OSError`."""
        return _open(path, _READ, os.O_RDONLY)

    def open_new(folder: Path) -> tuple[int, Path]:
        """A new empty file, open for writing; the caller closes it. Raises `OSError`."""
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        path = Path(name)
        return _open(path, _READ_AND_WRITE, os.O_RDWR), path

    def read_at(descriptor: int, count: int, offset: int) -> bytes:
        """At most `count` bytes from `offset` on, fewer at the end of the file."""
        with _reading:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, count)

else:
    open_to_read = partial(os.open, flags=os.O_RDONLY)
    read_at = os.pread

    def open_new(folder: Path) -> tuple[int, Path]:
        """A new empty file, open for writing; the caller closes it. Raises `OSError`."""
        handle, name = tempfile.mkstemp(dir=folder)
        return handle, Path(name)
