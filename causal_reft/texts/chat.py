"""Conversations -> prompts and completions, by the tokenizer's own chat template.

The border is the template's generation prompt: everything up to it is the prompt, in training as in generation, and
what the template writes after it is the completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from causal_reft.errors import DataError

Messages = Sequence[Mapping[str, Any]]
Prompts = list[str | Messages]
TURNS = ("last", "every")


def is_conversation(given: Any) -> bool:
    """Whether a value is one conversation: messages with a `role` each."""
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and bool(given)
        and all(isinstance(message, Mapping) and "role" in message for message in given)
    )


def as_prompts(given: Any) -> Prompts:
    """One prompt (a string, a conversation) or several, as a list.

    Raises:
        DataError: an entry that is neither.
    """
    if isinstance(given, str) or is_conversation(given):
        return [given]
    prompts = list(given)
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and not is_conversation(prompt):
            raise DataError(
                f"Text {row} is a {type(prompt).__name__}: {str(prompt)[:80]!r}. Allowed: strings, and conversations "
                "such as [{'role': 'user', 'content': '...'}]."
            )
    return prompts


def chat_prompt(messages: Messages, tokenizer: Any, where: str = "This conversation") -> str:
    """A conversation as text, up to and with the template's generation prompt.

    Args:
        messages: {"role": ..., "content": ...}, in order.
        tokenizer: one with a chat template.
        where: how errors name the conversation.

    Raises:
        DataError: no chat template; messages that it refuses.
    """
    return _rendered(messages, tokenizer, where, add_generation_prompt=True)


def chat_turns(
    messages: Messages, tokenizer: Any, turns: str = "last", where: str = "This conversation"
) -> list[tuple[str, str]]:
    """The (prompt, completion) of the last assistant turn, or of every one, each with all that was said before it.

    Every turn is a pair of its own, because positions are counted in the prompt: in one row with several labelled
    turns the second would be trained with the edit at the first one's border.

    Raises:
        DataError: no such choice of turns; no assistant turn, or one without content; a template under which a turn
            does not begin with its own generation prompt.
    """
    if turns not in TURNS:
        raise DataError(f"turns={turns!r}. Allowed: {', '.join(TURNS)}.")
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or (turns == "last" and answers[-1] != len(messages) - 1):
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(f"{where} does not end in an assistant turn, which is what is learned. Its roles: {roles}.")
    return [_turn(messages, i, tokenizer, where) for i in (answers if turns == "every" else answers[-1:])]


def _turn(messages: Messages, turn: int, tokenizer: Any, where: str) -> tuple[str, str]:
    if not str(messages[turn].get("content") or "").strip():
        raise DataError(f"{where} has an empty assistant turn (message {turn}), so there is nothing to learn from it.")
    prompt = chat_prompt(messages[:turn], tokenizer, where)
    whole = _rendered(messages[: turn + 1], tokenizer, where, add_generation_prompt=False)
    if not whole.startswith(prompt) or len(whole) == len(prompt):
        raise DataError(
            f"{where}: the chat template writes message {turn} otherwise than after its own generation prompt "
            f"{prompt[-40:]!r}, so training would not see what generation sees. Use another template "
            "(tokenizer.chat_template = ...), or pass prompt and completion as strings."
        )
    return prompt, whole[len(prompt) :]


def _rendered(messages: Messages, tokenizer: Any, where: str, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where} needs a chat template, and this tokenizer has none. Load the tokenizer of an instruction-tuned "
            "model, set tokenizer.chat_template, or pass prompts as strings."
        )
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise DataError(f"{where} does not fit the tokenizer's chat template: {error}.") from error
