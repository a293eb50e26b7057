"""Text to byte ids and back.

Dia reads UTF-8 bytes. Id 0 pads, and ids of bytes that text does not need stand for tags: `[S1]` is 1, `[S2]` is 2,
and fine-tunes add speakers, languages and styles. Knows nothing of audio or of the model; called by `DiaProcessor`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer

from .text_files import first_line, shortened

__all__ = ["SPEAKER_TAG", "DiaTokenizer", "any_of", "speaker_tag"]

SPEAKER_TAG = re.compile(r"\[S\d+\]")
"""Pattern of a speaker's tag, which a tokenizer may know or not."""

_TEXT_BYTES = frozenset([*range(32, 127), *range(128, 192), *range(194, 245)])
"""Bytes of printable text in UTF-8, which no tag can have."""

_MAX_LISTED = 8  # ids that a list of tags can take: 9 is the tab

# A bigger model_max_length means that nobody set it (transformers writes 1e30 into the files then).
_UNSET_LENGTH = 10**9


def any_of(tags: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of any of some tags, the longest first as in the tokenizer; without tags, of nothing."""
    return re.compile("|".join(map(re.escape, sorted(tags, key=len, reverse=True))) or "(?!)")


def speaker_tag(name: str) -> str:
    """Return the tag of a speaker by its name, with or without brackets: `[S1]` for "S1" and for "[S1]"."""
    return f"[{name.removeprefix('[').removesuffix(']')}]"


def _assign_ids(
    name: str,
    tags: Sequence[str] | Mapping[str, int],
    in_file: Mapping[str, int],
    taken: Mapping[int, str],
    free: Sequence[int],
) -> dict[str, int]:
    """Return the ids of tags, sorted: those of a mapping, of the file, or for further ones those that are free."""
    if isinstance(tags, str) or not isinstance(tags, Sequence | Mapping):
        raise ValueError(f"`{name}` is {shortened(tags)}; give a list of tags, or a dictionary of tags and ids.")
    if isinstance(tags, Mapping):
        ids = dict(tags)
    else:
        if len(set(tags)) < len(tags):
            raise ValueError(f"`{name}` has a tag twice: {', '.join(map(shortened, tags))}; give each once.")
        new = [tag for tag in tags if tag not in in_file]
        if len(new) > len(free):
            raise ValueError(
                f"`{name}` has {len(tags)} tags; at most {_MAX_LISTED} in all fit between padding (id 0) and the tab "
                f"(id 9). Give the tags their ids: `{name}={{'[nl]': 14, …}}`."
            )
        ids = {tag: in_file[tag] for tag in tags if tag in in_file} | dict(zip(new, free, strict=False))
    used = dict(taken)
    for tag, number in ids.items():
        if not isinstance(tag, str) or tag.split() != [tag] or len(tag) < 2:
            raise ValueError(
                f"`{name}` has {shortened(tag)}; a tag is a word without spaces, such as '[S3]' or '[nl]'."
            )
        if type(number) is not int or not 0 < number < 256 or number in _TEXT_BYTES:
            raise ValueError(
                f"`{name}` gives {tag!r} the id {shortened(number)}; an id is 1 to 31, 127, 192, 193 or 245 to 255: "
                "the byte stands for the tag, and text needs the others."
            )
        if tag in taken.values():
            raise ValueError(f"`{name}` has {tag!r}, which is one of the tags before; give it once.")
        if used.setdefault(number, tag) != tag:
            raise ValueError(f"`{name}` gives {tag!r} the id {number}, which {used[number]!r} has; give each its own.")
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _is_continuation(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


class DiaTokenizer(PreTrainedTokenizer):
    """A byte tokenizer with tags of speakers, languages and styles.

    Args:
        pad_token (`str`, defaults to `"<pad>"`): The token of id 0.
        unk_token (`str`, defaults to `"<pad>"`): Never produced, as every byte has an id; kept for the file layout.
        max_length (`int`, defaults to 1024): Longest text in ids (`max_position_embeddings` of the encoder). Longer
            text raises unless truncation is asked for. Becomes `model_max_length`.
        speaker_tokens (`Sequence[str]` or `Mapping[str, int]`, *optional*): Tags of speakers: of the ids 1, 2, …, or
            with their ids; `["[S1]", "[S2]"]` unless given. A list has at most eight, because id 9 is the tab.
        language_tokens (`Sequence[str]` or `Mapping[str, int]`, *optional*): Tags of languages and styles, which
            nobody speaks, such as `{"[nl]": 14}`; a list takes the lowest ids up to 8 that are free. None unless given.

    tokenizer_config.json has both lists, and the ids in `added_tokens_decoder`. In a file of another program, which has
    the latter alone, `[S1]`, `[S2]`, `[S3]` and so on are speakers, and all other tags of the ids 1 to 255 languages.

    Raises:
        ValueError: If a list of tags is too long, two tags have one id, or an id is that of a byte that text needs;
            when encoding, if the text is longer than `model_max_length` or holds a control character whose byte is
            taken by a tag.

    Example:
    ```python
    >>> from dia_hf import DiaTokenizer
    >>> tokenizer = DiaTokenizer()
    >>> tokenizer("[S1] Hé")["input_ids"]
    [1, 32, 72, 195, 169]
    >>> tokenizer.decode([1, 32, 72, 195, 169])
    '[S1] Hé'
    >>> DiaTokenizer(language_tokens={"[nl]": 14})("[nl] [S1] Hé")["input_ids"]
    [14, 32, 1, 32, 72, 195, 169]

    ```
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (transformers reads it off the class)

    def __init__(
        self,
        pad_token: str | AddedToken = "<pad>",
        unk_token: str | AddedToken = "<pad>",
        max_length: int = 1024,
        speaker_tokens: Sequence[str] | Mapping[str, int] | None = None,
        language_tokens: Sequence[str] | Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        added: dict[int, AddedToken] = kwargs.pop("added_tokens_decoder", {})  # of a file
        in_file = {str(token): number for number, token in sorted(added.items()) if 0 < number < 256}
        if speaker_tokens is None:
            found = {tag: number for tag, number in in_file.items() if SPEAKER_TAG.fullmatch(tag)}
            speaker_tokens = found or ["[S1]", "[S2]"]
        lowest = range(1, _MAX_LISTED + 1)
        free = [number for number in lowest if number not in in_file.values()] if in_file else lowest
        speakers = _assign_ids("speaker_tokens", speaker_tokens, in_file, {}, free)
        if language_tokens is None:
            language_tokens = {
                tag: number for tag, number in in_file.items() if tag not in speakers and not SPEAKER_TAG.fullmatch(tag)
            }
        taken = {number: tag for tag, number in speakers.items()}
        free = [number for number in lowest if number not in (*taken, *in_file.values())]
        languages = _assign_ids("language_tokens", language_tokens, in_file, taken, free)
        if doubled := [tag for tag in (*speakers, *languages) if tag == str(pad_token)]:
            raise ValueError(f"the tag {doubled[0]!r} means padding; give it another name.")
        self._speaker_ids, self._language_ids = speakers, languages
        if kwargs.get("model_max_length", _UNSET_LENGTH) >= _UNSET_LENGTH:
            kwargs["model_max_length"] = max_length
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        # Tags are single ids wherever they stand, spaces around them kept.
        self._added_tokens_decoder = {0: AddedToken(str(pad_token), special=True)}
        for tag, number in {**speakers, **languages}.items():
            self._added_tokens_decoder[number] = added[number] if in_file.get(tag) == number else AddedToken(tag)
        super().__init__(
            pad_token=AddedToken(str(pad_token), special=True),
            unk_token=AddedToken(str(unk_token), special=True),
            max_length=max_length,
            speaker_tokens=list(speakers),  # the ids are in `added_tokens_decoder` of the files
            language_tokens=list(languages),
            added_tokens_decoder={number: token for number, token in added.items() if not 0 < number < 256},
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
        """Tags of speakers, by their ids."""
        return list(self._speaker_ids)

    @property
    def language_tokens(self) -> list[str]:
        """Tags of languages and styles, by their ids."""
        return list(self._language_ids)

    @property
    def speaker_ids(self) -> dict[str, int]:
        """Ids of the tags of speakers."""
        return dict(self._speaker_ids)

    @property
    def language_ids(self) -> dict[str, int]:
        """Ids of the tags of languages and styles."""
        return dict(self._language_ids)

    def with_tags(self, tags: Sequence[str] | Mapping[str, int | None], speakers: Collection[str] = ()) -> DiaTokenizer:
        """Return a tokenizer with further tags; this one, if it has all of them.

        Args:
            tags (`Sequence[str]` or `Mapping[str, int | None]`): The tags, with their ids; without one, a tag that is
                new takes the lowest id up to 8 that is free.
            speakers (`Collection[str]`, *optional*): Those of them that are speakers, beside `[S1]`, `[S2]`, `[S3]`
                and so on. The others are languages.

        Raises:
            ValueError: If no id is left, or an id is another tag's or not possible.
        """
        ids = {"speakers": self.speaker_ids, "languages": self.language_ids}
        given: Mapping[str, int | None] = tags if isinstance(tags, Mapping) else dict.fromkeys(tags)
        reserved = {number for number in given.values() if number is not None}
        for tag, number in given.items():
            known = ids["speakers"] | ids["languages"]
            if tag in known and number in (None, known[tag]):
                continue
            if tag in known:
                raise ValueError(f"the tag {tag!r} is to have the id {number}, but has {known[tag]}; leave its id out.")
            if number is None:
                free = [one for one in range(1, 9) if one not in reserved and one not in known.values()]
                if not free:
                    raise ValueError(
                        f"{', '.join(known)} and {tag} are more than the {_MAX_LISTED} tags that have the ids 1 to 8; "
                        "give further tags their ids, such as 14 to 31."
                    )
                number = free[0]
            is_speaker = tag in speakers or SPEAKER_TAG.fullmatch(str(tag)) is not None
            ids["speakers" if is_speaker else "languages"][tag] = number
        if (ids["speakers"], ids["languages"]) == (self._speaker_ids, self._language_ids):
            return self
        return DiaTokenizer(
            pad_token=self.pad_token,
            max_length=self.model_max_length,
            speaker_tokens=ids["speakers"],
            language_tokens=ids["languages"],
            added_tokens_decoder={number: one for number, one in self.added_tokens_decoder.items() if number > 255},
        )

    def count_ids(self, text: str) -> int:
        """Count the ids of a text without making them: its UTF-8 bytes, a tag counting as one."""
        tags = any_of(self.added_tokens_encoder)
        return len(text.encode()) - sum(len(tag.encode()) - 1 for tag in tags.findall(text))

    @property
    def vocab_size(self) -> int:
        """Number of byte ids."""
        return 256

    def get_vocab(self) -> dict[str, int]:
        """Map every token, a byte written as the character of its code, to its id; added tokens are among them."""
        return {self.convert_ids_to_tokens(i): i for i in range(self.vocab_size)} | self.added_tokens_encoder

    def check_text(self, text: str) -> None:
        """Check that a text has no control characters that stand for padding or a tag, and no lone surrogates.

        Raises:
            ValueError: If it has one.
        """
        for character in set(text):
            if "\ud800" <= character <= "\udfff":
                raise ValueError(
                    f"the text holds U+{ord(character):04X}, half of a surrogate pair, which is no character and not "
                    "in UTF-8; remove it, or give the whole character."
                )
            if ord(character) < 128 and ord(character) in self._added_tokens_decoder:
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
                f"the text has {len(ids)} ids (UTF-8 bytes, a tag counting as one), but Dia reads at most "
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
