"""A tokenizer made for one environment: superword BPE with isolated nouns.

Nouns ("cabinet 1") are cut out first, so that each is the same token wherever it stands and to
copy one from an observation into an action is to repeat a token. Between nouns, BPE may merge
across spaces, so that the fixed text of an environment takes few tokens. All 256 bytes are in the
vocabulary: any text can be written, and comes back exactly.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aem_gym.agents.formats import SEPARATORS
from aem_gym.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerFast

PAD, END, ACT = "<|pad|>", "<|end|>", "<|act|>"
"""Padding; the end of a response (and of a system message); the start of a response."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '" + ACT + "' + message['content'] + '" + END + "' -}}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- message['content'] + '" + END + "' -}}"
    "{%- else -%}"
    "{{- message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ACT + "' -}}{%- endif -%}"
)
"""A turn is `observation <|act|> response <|end|>`: two template tokens a turn."""

_SPECIAL = (PAD, END, ACT)
_MIN_VOCABULARY = 256 + len(_SPECIAL)
_MAX_SPAN = 6
_WORD = re.compile(r"\w+|[^\w\s]")
_NUMBER = re.compile(r"(?:^| )[0-9]+$")
_INNER_NUMBER = re.compile(r" [0-9]+ ")


def train_tokenizer(
    parts: Iterable[str],
    lexicon: Sequence[str],
    *,
    vocab_size: int = 2048,
    separators: Sequence[str] = SEPARATORS,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the parts of transcripts.

    Args:
        parts: texts that no token should span two of: prompts, observations, thoughts and
            actions, each given separately.
        lexicon: class names of things ("cabinet"); each is isolated together with a number
            that follows it ("cabinet 1").
        vocab_size: the most tokens it may have (ALFWorld's parts give 1,200). A small bound cuts
            nouns first.
        separators: texts between thought and action, isolated too.

    Returns:
        A tokenizer with a chat template. Equal parts in the same order give the same bytes.

    Raises:
        ConfigError: `vocab_size` cannot hold the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < _MIN_VOCABULARY:
        raise ConfigError(f"vocab_size: expected at least {_MIN_VOCABULARY}, got {vocab_size}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = _pre_tokenizer(lexicon, separators)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_with_atoms(parts, lexicon, separators), trainer)
    return _with_chat(core)


def atom_pattern(lexicon: Sequence[str]) -> str:
    """The regular expression of the isolated nouns: the longest name wins, whole words only."""
    names = "|".join(re.escape(name) for name in sorted(set(lexicon), key=lambda n: (-len(n), n)))
    return rf"(?<!\w)(?:{names})(?: [0-9]+)?(?!\w)"


def find_lexicon(states: Iterable[tuple[str, Sequence[str]]], *, limit: int = 512) -> list[str]:
    """Find the class names of an environment in what it shows.

    A name is a span of words that some observation holds and that, in an action, can be
    exchanged for another such span ("go to [cabinet] 1", "go to [fridge] 1"). Numbers at the
    end are cut off.

    Args:
        states: (observation, admissible actions) pairs.
        limit: the most names to return; the ones in most actions are kept.

    Returns:
        The names, sorted.
    """
    shown: set[tuple[str, ...]] = set()
    actions: set[str] = set()
    for observation in _distinct(states, actions):
        words = _WORD.findall(observation)
        for size in range(1, _MAX_SPAN + 1):
            shown.update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    frames: dict[tuple[str, str], set[str]] = defaultdict(set)
    for action in sorted(actions):
        for start, end in _spans(action, shown):
            frames[action[:start], action[end:]].add(action[start:end])
    counts: Counter[str] = Counter()
    for fillers in frames.values():
        names = {name for name in (_NUMBER.sub("", f) for f in fillers) if len(name) > 1}
        if len(names) > 1:
            counts.update(names)
    # "apple 1 from" is a thing and what follows it, if "apple" is a name.
    heads = {name: _INNER_NUMBER.split(name)[0] for name in counts}
    for name, head in heads.items():
        if head != name and head in heads:
            del counts[name]
    best = sorted(counts, key=lambda name: (-counts[name], name))[:limit]
    return sorted(best)


def _distinct(states: Iterable[tuple[str, Sequence[str]]], actions: set[str]) -> Iterable[str]:
    """The distinct observations; the actions are added to `actions` on the way."""
    seen: set[str] = set()
    for observation, admissible in states:
        actions.update(admissible)
        if observation not in seen:
            seen.add(observation)
            yield observation


def _spans(action: str, shown: set[tuple[str, ...]]) -> Iterable[tuple[int, int]]:
    """The places of spans of `shown` words in an action, never at its first word (the verb)."""
    words = list(_WORD.finditer(action))
    for i in range(1, len(words)):
        if not words[i].group()[0].isalpha():
            continue
        for j in range(i, min(len(words), i + _MAX_SPAN)):
            ends_in_word = words[j].group()[0].isalnum()
            if ends_in_word and tuple(word.group() for word in words[i : j + 1]) in shown:
                yield words[i].start(), words[j].end()


def _with_atoms(
    parts: Iterable[str], lexicon: Sequence[str], separators: Sequence[str]
) -> Iterable[str]:
    """The parts; each noun of them twice more, so that even a rare one becomes a token.

    A separator stands in every response but in no part, so it comes as often as the parts.
    """
    pattern = re.compile(atom_pattern(lexicon)) if lexicon else None
    atoms: set[str] = set()
    for part in parts:
        yield from separators
        if pattern is not None:
            atoms.update(pattern.findall(part))
        yield part
    for atom in sorted(atoms):
        yield from (atom, atom)


def _pre_tokenizer(lexicon: Sequence[str], separators: Sequence[str]) -> PreTokenizer:
    """Isolate separators, then nouns; write bytes; never split at spaces."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[PreTokenizer] = []
    if separators:
        longest = sorted(set(separators), key=lambda s: (-len(s), s))
        pattern = "|".join(re.escape(text) for text in longest)
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    if lexicon:
        steps.append(pre_tokenizers.Split(Regex(atom_pattern(lexicon)), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def _with_chat(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The trained tokenizer with its special tokens and chat template, for transformers."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[ACT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
