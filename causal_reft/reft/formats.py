"""Which fields hold what is given and what is learned, and how the two are written as one text.

prompt + completion as they are; instruction (+ input) in Alpaca's frame; messages, and any of these with `chat`, in
the tokenizer's own chat template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import DataError
from causal_reft.reft.rows import text_of, value_of
from causal_reft.texts import chat_turns, is_conversation

PAIR, ALPACA_FIELDS = ("prompt", "completion"), ("instruction", "output")
FORMATS = (PAIR, ("prompt", "response"), ("question", "answer"), ALPACA_FIELDS, ("messages",))
ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Written:
    """A prompt and its completion as texts, and the number of the record that they come from.

    `framed`: whether a chat template wrote them, special tokens included.
    """

    record: int
    prompt: str
    completion: str
    framed: bool = False


def alpaca_prompt(instruction: str, input: str = "") -> str:
    """An instruction in the frame of the Alpaca data (Taori et al. 2023), as `completions` writes it."""
    paired = ", paired with an input that provides further context" if input else ""
    further = f"### Input:\n{input}\n\n" if input else ""
    return f"{ALPACA.format(paired=paired)}\n\n### Instruction:\n{instruction}\n\n{further}### Response:\n"


def written(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    fields: Sequence[str] | None = None,
    chat: bool = False,
    turns: str = "last",
) -> list[Written]:
    """Every row as one prompt and completion; a conversation with turns="every" as several.

    Raises:
        DataError: naming the record and the field.
    """
    names = _format(rows[0]) if fields is None else tuple(fields)
    if len(names) not in (1, 2):
        raise DataError(f"fields={names}: name the prompt's and the completion's field, or the one of the messages.")
    if fields is None and names == ALPACA_FIELDS:
        rows = [_instruction(number, row, framed=chat) for number, row in enumerate(rows)]
        names = PAIR
    if len(names) == 2 and not chat:
        return [Written(number, *_pair(number, row, names)) for number, row in enumerate(rows)]
    return [
        Written(number, *turn, framed=True)
        for number, row in enumerate(rows)
        for turn in chat_turns(_messages(number, row, names), tokenizer, turns, f"Record {number}")
    ]


def _format(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = next((names for names in FORMATS if all(name in row for name in names)), None)
    if found is None:
        known = "; ".join(" and ".join(names) for names in FORMATS)
        raise DataError(
            f"Record 0 has the fields {', '.join(map(str, row)) or 'none'}. Known are: {known}. For others write "
            "fields=('name of the prompt', 'name of the completion')."
        )
    return found


def _pair(number: int, row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str]:
    return text_of(number, row, names[0]), text_of(number, row, names[1])


def _instruction(number: int, row: Mapping[str, Any], framed: bool) -> Mapping[str, str]:
    """A row of Alpaca's fields as prompt and completion; a chat template needs no other frame."""
    instruction, answer = _pair(number, row, ALPACA_FIELDS)
    if not instruction.strip():
        raise DataError(f"Record {number}: its field 'instruction' is empty.")
    more = text_of(number, row, "input", empty=True) if "input" in row else ""
    plain = f"{instruction}\n\n{more}" if more else instruction
    return dict(zip(PAIR, (plain if framed else alpaca_prompt(instruction, more), answer), strict=True))


def _messages(number: int, row: Mapping[str, Any], names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    if len(names) == 2:
        roles = zip(("user", "assistant"), _pair(number, row, names), strict=True)
        return [{"role": role, "content": content} for role, content in roles]
    talk = value_of(number, row, names[0])
    if not is_conversation(talk):
        raise DataError(
            f"Record {number}: its field {names[0]!r} is no conversation: {str(talk)[:60]!r}. Allowed: a list of "
            "{'role': 'user', 'content': '...'}."
        )
    return talk
