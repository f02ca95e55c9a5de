"""The tokenizer of a corpus: a compact BPE of our own, or another one reduced to the tokens that the corpus can use.

Either depends on value lists, templates and declared extras, never on the sampled people, so it has no information
about them (DESIGN: two seeds give the same tokenizer, byte for byte).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Split, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.trainers import BpeTrainer

from knowcap.facts import UNSPACED, CorpusError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


EOS = "<|endoftext|>"
EOS_ID = 0
BPE_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
SMALLEST_OF_ANY_TEXT = 257  # the end of text, and every byte


def minimum_vocab_size(texts: Iterable[str]) -> int:
    """The end-of-text token and every distinct byte of the texts: the smallest compact BPE."""
    return 1 + len(set().union(*(set(text.encode()) for text in set(texts))))


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, every_byte: bool = False, prefix_space: bool = False
) -> Tokenizer:
    """A byte-level BPE over a corpus' `vocabulary_texts`; token 0 is the end of text, padding and the unknown token.

    It may have fewer than `vocab_size` tokens if there are no more merges. With `every_byte` it has all 256 bytes, so
    it can encode any text; with `prefix_space` it encodes a text as if a space stood before it. Characters of scripts
    without spaces are never merged with their neighbors, so that values have tokens of their own.

    Raises:
        CorpusError: `vocab_size` is below `minimum_vocab_size`.
    """
    texts = list(texts)
    least = SMALLEST_OF_ANY_TEXT if every_byte else minimum_vocab_size(texts)
    if vocab_size < least:
        raise CorpusError(
            f"vocab_size={vocab_size}, but the texts need {least - 1} distinct bytes and an end-of-text "
            f"token; give at least {least}"
        )
    return Tokenizer.from_str(_trained(tuple(texts), vocab_size, every_byte, prefix_space))


@lru_cache(maxsize=8)
def _trained(texts: tuple[str, ...], vocab_size: int, every_byte: bool, prefix_space: bool) -> str:
    """The tokenizer as JSON: a sweep's cells, and the checks before a run, need the same one again."""
    tokenizer = Tokenizer(BPE(unk_token=EOS))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=prefix_space)
    if any(map(UNSPACED.search, texts)):
        characters = Split(Regex(UNSPACED.pattern), "isolated")
        tokenizer.pre_tokenizer = Steps([characters, ByteLevel(add_prefix_space=prefix_space)])
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = sorted(ByteLevel.alphabet()) if every_byte else []
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=[EOS], show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def with_prefix_space(tokenizer: Tokenizer) -> Tokenizer:
    """A byte-level tokenizer that encodes a text as if a space stood before it; any other kind unchanged."""
    state = json.loads(tokenizer.to_str())
    if (state["pre_tokenizer"] or {}).get("type") == "ByteLevel":
        state["pre_tokenizer"]["add_prefix_space"] = True
    return Tokenizer.from_str(json.dumps(state))


def check_names(tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Checks that names have the same tokens at the beginning of a text and within one.

    Raises:
        CorpusError: names the first one that differs: a model would not recognize it in a question.
    """
    before = tokenizer.encode("a", add_special_tokens=False).ids
    alone = tokenizer.encode_batch_fast(list(names), add_special_tokens=False)
    within = tokenizer.encode_batch_fast([f"a {name}" for name in names], add_special_tokens=False)
    for name, one, other in zip(names, alone, within, strict=True):
        if before + one.ids != other.ids:
            raise CorpusError(
                f"questions: the tokenizer encodes {name!r} differently at the beginning of a text and within one, so "
                "a model cannot recognize the person in a question; leave tokenizer_name out, or give a byte-level one"
            )


def with_words(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """A byte-level BPE with each of `words` (a space, then only letters or only digits) as one more token."""
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for word in words:
        vocab.setdefault(word.replace(" ", "Ġ"), len(vocab))  # a byte-level BPE writes a space so
    state["model"]["ignore_merges"] = True  # a word of the vocabulary is one token, even without merges to it
    return Tokenizer.from_str(json.dumps(state))


def word_tokenizer(words: Iterable[str]) -> tuple[Tokenizer, int]:
    """A token for each of `words`, for texts of words with spaces between; and the size with the end of text."""
    vocab = {word: number for number, word in enumerate(dict.fromkeys([EOS, *words]))}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token=EOS))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([EOS])  # which keeps its number, EOS_ID
    return tokenizer, len(vocab)


def alphabet_of(tokenizer: Tokenizer) -> set[int]:
    """The ids of a compact BPE's single bytes: they stay in the vocabulary even if unused."""
    return {number for token, number in tokenizer.get_vocab().items() if len(token) == 1}


def load_backend(name: str) -> Tokenizer:
    """The `tokenizers` backend of a tokenizer from a folder or the Hub.

    A folder may also have only the two files of GPT-2's BPE, under transformers' names (vocab.json, merges.txt) or
    the original ones (encoder.json, vocab.bpe); the path of either file is accepted as well.

    Raises:
        CorpusError: not found, not readable, or without a fast backend.
    """
    path = Path(name).expanduser()
    pair = _byte_level_files(path)
    if pair is not None:
        return _byte_level(*pair)
    if path.is_file():
        expected = " or ".join(" and ".join(names) for names in BPE_FILES)
        raise CorpusError(f"tokenizer_name={name!r} is a file, expected one of {expected} beside each other")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"tokenizer_name={name!r} could not be loaded: {error}; give a Hub id or a folder"
        ) from error
    if not tokenizer.is_fast:
        raise CorpusError(f"tokenizer_name={name!r} is a {type(tokenizer).__name__}, expected one with a fast backend")
    return tokenizer.backend_tokenizer


def _byte_level_files(path: Path) -> tuple[Path, Path] | None:
    """The vocabulary and the merges: of either file, or of a folder with no other description of a tokenizer."""
    folder, described = path, ("tokenizer.json", "tokenizer_config.json", "config.json")
    if path.is_file():
        folder = path.parent
    elif any((folder / name).is_file() for name in described):
        return None
    pairs = [(folder / vocabulary, folder / merges) for vocabulary, merges in BPE_FILES]
    pairs = [pair for pair in pairs if path == folder or path in pair]
    return next((pair for pair in pairs if all(file.is_file() for file in pair)), None)


def _byte_level(vocabulary: Path, merges: Path) -> Tokenizer:
    """GPT-2's kind of BPE. Raises CorpusError if its files cannot be read."""
    try:
        tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # tokenizers raises Exception itself
        raise CorpusError(
            f"tokenizer_name: {vocabulary} and {merges.name} are not a BPE's vocabulary and merges: {error}; copy "
            "both files of one tokenizer"
        ) from error
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    if tokenizer.token_to_id(EOS) is not None:
        tokenizer.add_special_tokens([EOS])
    return tokenizer


def reduce_tokenizer(tokenizer: Tokenizer, used: Iterable[int], markers: Sequence[str] = ()) -> tuple[Tokenizer, int]:
    """The same segmentation with the used tokens renumbered from 1; the end-of-text token is 0.

    A BPE needs the intermediate tokens of its merges; those stay, numbered after the used ones, so they need no row in
    the model and never occur in the corpus' texts.

    Args:
        tokenizer: a BPE or Unigram backend.
        used: token ids that the corpus can use.
        markers: words that become one token each, together with the blank that follows them.

    Returns:
        the reduced tokenizer, and the number of rows that a model needs (used tokens and the end-of-text token).

    Raises:
        CorpusError: another kind of model than BPE or Unigram.
    """
    state = json.loads(tokenizer.to_str())
    kind = state["model"]["type"]
    tokens = [tokenizer.id_to_token(i) for i in sorted(set(used))]
    if EOS in tokens:
        raise CorpusError(f"the texts of the corpus contain the token {EOS}, which may only end texts; remove it")
    taken = [marker for marker in markers if marker in tokenizer.get_vocab()]
    if taken:
        raise CorpusError(f"{taken} are already tokens of the tokenizer; choose other words")
    rows = [EOS, *markers, *tokens]
    if kind == "BPE":
        _reduce_bpe(state["model"], rows)
    elif kind == "Unigram":
        scores = dict(state["model"]["vocab"])
        state["model"]["vocab"] = [[t, scores.get(t, min(scores.values()))] for t in rows]
        state["model"]["unk_id"] = EOS_ID
    else:
        raise CorpusError(f"the tokenizer is a {kind} model, expected BPE or Unigram; choose another tokenizer_name")
    state["added_tokens"] = [_added(EOS_ID, EOS, special=True)]
    state["added_tokens"] += [_added(n, marker, rstrip=True) for n, marker in enumerate(markers, start=EOS_ID + 1)]
    if state["post_processor"] is not None and state["post_processor"]["type"] != "ByteLevel":
        state["post_processor"] = None  # templates that add special tokens by their old ids
    state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state)), len(rows)


def _added(number: int, content: str, *, special: bool = False, rstrip: bool = False) -> dict[str, Any]:
    """A token that `tokenizers` splits off before all others, in its JSON form."""
    kept = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": special}
    return {"id": number, "content": content} | kept


def _reduce_bpe(model: dict[str, Any], rows: list[str]) -> None:
    """Keeps the rows, the tokens that they are merged from, and the merges between."""
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    made_by: dict[str, tuple[str, str]] = {}
    for left, right in pairs:
        made_by.setdefault(left + right, (left, right))
    needed, todo = set(rows), list(rows[1:])
    while todo:
        for part in made_by.get(todo.pop(), ()):
            if part not in needed:
                needed.add(part)
                todo.append(part)
    names = [*rows, *sorted(needed - set(rows), key=model["vocab"].__getitem__)]
    model["merges"] = [[a, b] for a, b in pairs if a in needed and b in needed and a + b in needed]
    model["vocab"] = {name: number for number, name in enumerate(names)}
    model["unk_token"] = EOS


def wrap(tokenizer: Tokenizer, block_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer for transformers; its end-of-text token is also the BOS and padding token."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=EOS,
        model_max_length=block_size,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: Tokenizer, block_size: int, folder: str | Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, for AutoTokenizer."""
    wrap(tokenizer, block_size).save_pretrained(str(folder))


def check_vocabulary(vocab_size: int, texts: Iterable[str]) -> list[str]:
    """The problem of a compact BPE that is too small to encode the corpus, if it is."""
    least = minimum_vocab_size(texts)
    if vocab_size >= least:
        return []
    return [
        f"vocab_size={vocab_size} is too small: lists and templates need {least - 1} distinct bytes and an "
        f"end-of-text token; expected {least} or more"
    ]
