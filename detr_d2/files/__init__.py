"""Files that are written whole or not at all, folders that one run at a time writes into, and the processes behind."""

from .folder_lock import FolderInUse, hold_folder
from .other_kinds import other_kind
from .processes import Process
from .write_errors import WriteError
from .writing import (
    StrPath,
    check_writable,
    file_hash,
    new_file,
    new_file_by_name,
    new_folder,
    set_aside,
    shorten,
    write_figure,
    write_file,
    write_json,
    write_picture,
    write_text,
)

__all__ = [
    "FolderInUse",
    "Process",
    "StrPath",
    "WriteError",
    "check_writable",
    "file_hash",
    "hold_folder",
    "new_file",
    "new_file_by_name",
    "new_folder",
    "other_kind",
    "set_aside",
    "shorten",
    "write_figure",
    "write_file",
    "write_json",
    "write_picture",
    "write_text",
]
