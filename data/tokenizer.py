"""The embedded model's tokenizer: one token per word, punctuation mark or line end.

Word level keeps every answer readable token by token. Decoding puts the spaces back so that a text of the corpus
survives encode and decode unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def build_tokenizer(texts: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """Every word of ``texts`` becomes a token, in alphabetical order after the special ones and the line end."""
    pieces = {piece for text in texts for piece in re.findall(r"\w+|[^\w\s]", text)}
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, "\n", *sorted(pieces)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(Regex(r"[^\w ]"), "isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(cleanup=True),
            decoders.Fuse(),
            decoders.Replace(" \n", "\n"),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK,
        model_max_length=context, padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
