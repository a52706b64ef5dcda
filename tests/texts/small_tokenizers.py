"""Real tokenizers of a few dozen tokens, one for each habit that moves a border: begin and end tokens, merges, spaces
in front.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
CHAT = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def characters(front: bool = False, back: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of characters in which "th", "he" and "the" merge, also across a prompt's border.

    `front` puts <s> before a text, `back` puts </s> after it.
    """
    letters = [chr(i) for i in range(97, 123)] + list(" \n.:?!") + [chr(i) for i in range(65, 91)]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters, "th", "he", "the"])}
    inner = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")], unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    return _finished(inner, front, back, special)


def sentencepiece(front: bool = True, back: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before every text and writes spaces as a visible mark, as Llama's did."""
    letters = ["\u2581", *[chr(i) for i in range(97, 123)], "\n", ".", ":"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters, "\u2581t", "\u2581th"])}
    inner = Tokenizer(models.BPE(vocabulary, [("\u2581", "t"), ("\u2581t", "h")], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    return _finished(inner, front, back, special)


def words(back: bool = False) -> PreTrainedTokenizerFast:
    """One token a word, and no end-of-text token unless `back` puts one after every text."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "the", "king", "said", "no"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finished(inner, False, back, {} if back else {"eos_token": None})


def _finished(inner: Tokenizer, front: bool, back: bool, special: dict) -> PreTrainedTokenizerFast:
    inner.add_special_tokens(SPECIAL)
    template = f"{'<s> ' if front else ''}$A{' </s>' if back else ''}"
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **special}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, **{name: token for name, token in names.items() if token is not None}
    )
