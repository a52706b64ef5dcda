"""A tokenizer of twenty words for the tiny models of `tests.models`, and a text in them."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [*"ant bee cat dog eel fox gnu hen ibis jay kite lynx mole newt owl pig quail rat seal toad".split()]  # noqa: SIM905
TEXT = "fox jay cat mole ant seal owl cat bee toad gnu hen fox rat ant eel pig newt dog kite lynx quail ibis cat"
PROMPT = "hen owl pig"


def tokenizer() -> PreTrainedTokenizerFast:
    """Ids 3 to 22 are words; 0, 1 and 2 are special."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{word: 3 + i for i, word in enumerate(WORDS)}}
    inner = Tokenizer(models.WordLevel({**vocabulary, "<unk>": 23}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
