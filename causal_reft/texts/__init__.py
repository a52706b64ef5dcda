"""TEXTS: from prompts, completions and conversations to padded tensors, in one way for training and generation.

tokens: texts -> token rows, and the border between a prompt and what follows it.
chat:   conversations -> prompts and completions, by the tokenizer's own chat template.
batch:  token rows -> input_ids, attention_mask, labels, prompt_lengths, spans.
"""

from causal_reft.texts.batch import (
    IGNORED_LABEL,
    Record,
    encode,
    labelled_batch,
    pad_token_id,
    prompt_rows,
    record,
    token_batch,
)
from causal_reft.texts.chat import Messages, as_prompts, chat_prompt, chat_turns, is_conversation
from causal_reft.texts.tokens import (
    Continuation,
    Ids,
    check_tokenizer,
    continuations,
    ended,
    prompt_tokens,
    text_tokens,
    whole_tokens,
)

__all__ = [
    "IGNORED_LABEL",
    "Continuation",
    "Ids",
    "Messages",
    "Record",
    "as_prompts",
    "chat_prompt",
    "chat_turns",
    "check_tokenizer",
    "continuations",
    "encode",
    "ended",
    "is_conversation",
    "labelled_batch",
    "pad_token_id",
    "prompt_rows",
    "prompt_tokens",
    "record",
    "text_tokens",
    "token_batch",
    "whole_tokens",
]
