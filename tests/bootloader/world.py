"""A menu.World of files that are only names and texts."""

from vmbatch.bootloader.menu import OWN, File


class World:
    """`files` are those beside the configuration; `partitions` are file systems elsewhere, by number."""

    def __init__(self, files: dict[str, str], partitions: dict[int, dict[str, str]] | None = None,
                 found: dict[tuple[str, str], int] | None = None) -> None:
        self.partitions = {**(partitions or {}), OWN: files}
        self.found = found or {}

    def read(self, file: File) -> str | None:
        return self.partitions.get(file.number, {}).get(file.path)

    def exists(self, file: File, kind: str = "") -> bool:
        files = self.partitions.get(file.number, {})
        below = any(name.startswith(f"{file.path}/") for name in files)
        return (file.path in files and kind != "directory") or (below and kind != "file")

    def names(self, directory: File) -> list[str]:
        start = directory.path + "/"
        return [name.removeprefix(start) for name in self.partitions.get(directory.number, {}) if name.startswith(start)]

    def search(self, what: str, value: str) -> int | None:
        return self.found.get((what, value))
