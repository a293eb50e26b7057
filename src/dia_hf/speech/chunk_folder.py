"""Folder of a dialogue: the codes of its chunks, so that an interrupted one is continued, and what they were made of.

Legend: T frames, C channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..atomic_write import atomic_write, is_leftover
from ..audio.codec import Codec
from ..text_files import first_line, read_json, shortened

__all__ = ["ChunkFolder", "remove_chunks"]


def remove_chunks(folder: Path) -> None:
    """Remove a dialogue's files from a folder, and the folder if it is empty then."""
    dialogue = folder / "dialogue.json"
    if dialogue.is_file():
        for file in [*folder.glob("chunk-?????.safetensors"), dialogue]:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


class ChunkFolder:
    """Chunks of one dialogue as files.

    Args:
        path (`str` or `os.PathLike`): The folder.
        codec (`Codec`): Codec of the chunks.
    """

    def __init__(self, path: str | os.PathLike, codec: Codec) -> None:
        self.path = Path(path)
        self._codec = codec

    def open(self, dialogue: Mapping[str, Any], seed: int | None, new_seed: int) -> int:
        """Make the folder, or check that it holds the same dialogue.

        Args:
            dialogue (`Mapping[str, Any]`): All that its chunks depend on, but the seed; JSON-serializable.
            seed (`int`, *optional*): Seed that is asked for.
            new_seed (`int`): Seed of a new dialogue.

        Returns:
            `int`: Seed of the dialogue in the folder.

        Raises:
            ValueError: If the folder holds another dialogue, or something else.
        """
        file = self.path / "dialogue.json"
        if file.exists():
            before = read_json(file)
            if not isinstance(before.get("seed"), int):
                raise ValueError(
                    f"{str(file)!r} has the `seed` {shortened(before.get('seed'))}; remove the folder to begin anew."
                )
            changed = [name for name in dialogue if before.get(name) != dialogue[name]]
            if seed is not None and before.get("seed") != seed:
                changed.append("seed")
            if changed:
                raise ValueError(
                    f"{str(self.path)!r} holds a dialogue that differs in {', '.join(changed)}; choose another "
                    "folder, or remove this one (`dia-hf generate --force` does so) to begin anew."
                )
            return before["seed"]
        if self.path.is_dir() and not all(map(is_leftover, self.path.iterdir())):
            raise ValueError(
                f"{str(self.path)!r} is not empty and holds no dialogue; its files could be taken for chunks, "
                "and be removed. Choose another folder, or empty it."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**dialogue, "seed": new_seed}, indent=1, ensure_ascii=False)
        with atomic_write(file) as beside:
            beside.write_text(text, "utf-8")
        return new_seed

    def _file(self, index: int) -> Path:
        return self.path / f"chunk-{index + 1:05}.safetensors"

    def has(self, index: int) -> bool:
        """Return whether the folder has a chunk."""
        return self._file(index).exists()

    def load(self, index: int) -> torch.Tensor | None:
        """Read the codes `[T, C]` of a chunk; `None` if the folder does not have it.

        Raises:
            ValueError: If its file is damaged.
        """
        file = self._file(index)
        if not file.exists():
            return None
        try:
            with safe_open(file, "pt") as tensors:
                codes = tensors.get_tensor("codes")
            shape, is_code = tuple(codes.shape), codes.dtype == torch.int16
            if not is_code or codes.ndim != 2 or shape[1] != self._codec.num_codebooks:
                raise ValueError(
                    f"{codes.dtype} of shape {shape}, and no codes of {self._codec.num_codebooks} channels"
                )
            if codes.numel() and not 0 <= codes.min() <= codes.max() < self._codec.codebook_size:
                raise ValueError(f"codes from {codes.min()} to {codes.max()}; there are {self._codec.codebook_size}")
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(
                f"{str(file)!r} is damaged ({first_line(error)}); remove it to generate it again."
            ) from error
        return codes.long()

    def save(self, index: int, codes: torch.Tensor) -> None:
        """Write the codes `[T, C]` of a chunk."""
        with atomic_write(self._file(index)) as beside:
            beside.write_bytes(save({"codes": codes.to(torch.int16)}))

    def remove(self) -> None:
        """Remove the dialogue's files, and the folder if it is empty then."""
        remove_chunks(self.path)
