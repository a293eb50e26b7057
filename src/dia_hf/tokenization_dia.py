"""Text to byte ids and back.

Dia reads UTF-8 bytes. Id 0 pads, and the lowest ids stand for the speaker tags: `[S1]` is 1, `[S2]` is 2. Knows
nothing of audio or of the model; called by `DiaProcessor`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer

from .text_files import first_line, shortened

__all__ = ["SPEAKER_TAG", "DiaTokenizer", "speaker_tag"]

SPEAKER_TAG = re.compile(r"\[S\d+\]")
"""Pattern of a speaker's tag, which a tokenizer may know or not."""

# A bigger model_max_length means that nobody set it (transformers writes 1e30 into the files then).
_UNSET_LENGTH = 10**9


def speaker_tag(name: str) -> str:
    """Return the tag of a speaker by its name, with or without brackets: `[S1]` for "S1" and for "[S1]"."""
    return f"[{name.removeprefix('[').removesuffix(']')}]"


def _is_continuation(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


class DiaTokenizer(PreTrainedTokenizer):
    """A byte tokenizer with speaker tags.

    Args:
        pad_token (`str`, defaults to `"<pad>"`): The token of id 0.
        unk_token (`str`, defaults to `"<pad>"`): Never produced, as every byte has an id; kept for the file layout.
        max_length (`int`, defaults to 1024): Longest text in ids (`max_position_embeddings` of the encoder). Longer
            text raises unless truncation is asked for. Becomes `model_max_length`.
        speaker_tokens (`Sequence[str]`, *optional*): Tags of the ids 1, 2, …: `["[S1]", "[S2]"]` unless given. At
            most eight, because id 9 is the tab.

    Raises:
        ValueError: If more than eight speaker tokens are given; when encoding, if the text is longer than
            `model_max_length` or holds a control character whose byte is taken by a tag.

    Example:
    ```python
    >>> from dia_hf import DiaTokenizer
    >>> tokenizer = DiaTokenizer()
    >>> tokenizer("[S1] Hé")["input_ids"]
    [1, 32, 72, 195, 169]
    >>> tokenizer.decode([1, 32, 72, 195, 169])
    '[S1] Hé'

    ```
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (transformers reads it off the class)

    def __init__(
        self,
        pad_token: str | AddedToken = "<pad>",
        unk_token: str | AddedToken = "<pad>",
        max_length: int = 1024,
        speaker_tokens: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        speaker_tokens = list(speaker_tokens) if speaker_tokens is not None else ["[S1]", "[S2]"]
        if len(speaker_tokens) > 8:
            raise ValueError(
                f"{len(speaker_tokens)} speaker tokens; at most 8 fit between padding (id 0) and the tab (id 9)."
            )
        if kwargs.get("model_max_length", _UNSET_LENGTH) >= _UNSET_LENGTH:
            kwargs["model_max_length"] = max_length
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        # Tags are single ids wherever they stand, spaces around them kept.
        self._added_tokens_decoder = {0: AddedToken(str(pad_token), special=True)}
        self._added_tokens_decoder |= {i: AddedToken(tag) for i, tag in enumerate(speaker_tokens, start=1)}
        super().__init__(
            pad_token=AddedToken(str(pad_token), special=True),
            unk_token=AddedToken(str(unk_token), special=True),
            max_length=max_length,
            speaker_tokens=speaker_tokens,
            token_type_ids_pattern="all_zeros",
            special_tokens_pattern="none",
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> DiaTokenizer:
        """Load the tokenizer of a checkpoint, as in the base class.

        Raises:
            OSError: If there is none.
            ValueError: If a field of its files has a wrong type.
            AttributeError: If an argument has the name of a method.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (TypeError, AttributeError, KeyError) as error:
            if any(str(error).startswith(f"{name} conflicts with") for name in kwargs):
                raise  # the caller's argument, not a file
            raise ValueError(
                f"the tokenizer of {str(pretrained_model_name_or_path)!r} cannot be loaded: a field of "
                f"tokenizer_config.json or of a file of tokens beside it has a wrong type ({first_line(error)}); "
                "correct it, or write these files anew: `DiaTokenizer().save_pretrained(folder)`."
            ) from error

    @property
    def speaker_tokens(self) -> list[str]:
        """Tags of the ids 1, 2, …"""
        return list(self.init_kwargs["speaker_tokens"])

    def count_ids(self, text: str) -> int:
        """Count the ids of a text without making them: its UTF-8 bytes, a speaker tag counting as one."""
        return len(text.encode()) - sum(text.count(tag) * (len(tag) - 1) for tag in self.speaker_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of byte ids."""
        return 256

    def get_vocab(self) -> dict[str, int]:
        """Map every token, a byte written as the character of its code, to its id; added tokens are among them."""
        return {self.convert_ids_to_tokens(i): i for i in range(self.vocab_size)} | self.added_tokens_encoder

    def check_text(self, text: str) -> None:
        """Check that a text has no control characters that stand for padding or a speaker tag.

        Raises:
            ValueError: If it has one.
        """
        for character in set(text):
            if ord(character) in self._added_tokens_decoder:
                tag = self._added_tokens_decoder[ord(character)].content
                raise ValueError(
                    f"the text holds the control character U+{ord(character):04X}, whose byte Dia reads as {tag!r}; "
                    "remove it, or write the tag."
                )

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        self.check_text(text)
        return [chr(byte) for byte in text.encode("utf-8")]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text; bytes that are no UTF-8 (a character cut in two) become U+FFFD.

        Here transformers re-encodes each byte by itself and returns "cafÃ©" for "café"
        (`tests/test_tokenization_dia.py::test_decoding_inverts_encoding`).
        """
        added = self.added_tokens_encoder
        text = b"".join(token.encode("utf-8") if token in added else bytes([ord(token)]) for token in tokens)
        return text.decode("utf-8", errors="replace")

    def prepare_for_model(self, ids: list[int], *args: Any, truncation: Any = None, **kwargs: Any) -> Any:
        """Do as in the base class, but raise for over-long text instead of warning."""
        if not isinstance(longest := kwargs.get("max_length"), int | None):
            raise TypeError(f"`max_length` is {shortened(longest)}; give a whole number.")
        if truncation in (None, False, "do_not_truncate") and len(ids) > self.model_max_length:
            raise ValueError(
                f"the text has {len(ids)} ids (UTF-8 bytes, a speaker tag counting as one), but Dia reads at most "
                f"{self.model_max_length}; split it, or pass `truncation=True`."
            )
        return super().prepare_for_model(ids, *args, truncation=truncation, **kwargs)

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Truncate as the base class does, removing up to three bytes more where a character would be cut in two."""
        keep = len(ids) - num_tokens_to_remove
        if 0 < keep < len(ids):
            if self.truncation_side == "right":
                while keep and _is_continuation(ids[keep]):
                    keep -= 1
            else:
                while keep and _is_continuation(ids[-keep]):
                    keep -= 1
            num_tokens_to_remove = len(ids) - keep
        return super().truncate_sequences(ids, pair_ids, num_tokens_to_remove, *args, **kwargs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Save nothing: the vocabulary is the bytes."""
        return ()
