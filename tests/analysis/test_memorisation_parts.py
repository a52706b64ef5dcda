"""Texts, scores and access ids, each against what its definition says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from causal_reft.analysis import Edit, MemoryRecipe, read_text
from causal_reft.analysis.memorisation.memorise import known_prompt, started
from causal_reft.analysis.memorisation.recall import Recall, scores, unedited
from causal_reft.analysis.memorisation.targets import readable_tokens, target_ids
from causal_reft.analysis.memorisation.training import MARGIN, Lesson, learn, margin
from causal_reft.errors import DataError
from causal_reft.experiments.memorisation.ids import access_ids, distinct_words, id_records
from causal_reft.texts import record
from tests.analysis.memory_models import PROMPT, TEXT, WORDS, tokenizer
from tests.models import llama

TOKENIZER = tokenizer()


@pytest.mark.parametrize("kind", ["book", "scrambled", "random"])
def test_shorter_targets_are_the_beginnings_of_longer_ones(kind: str) -> None:
    longest = target_ids(kind, TEXT, 12, TOKENIZER, seed=3)
    assert [target_ids(kind, TEXT, n, TOKENIZER, seed=3) for n in (1, 5)] == [longest[:1], longest[:5]]
    others = [target_ids(kind, TEXT, 12, TOKENIZER, seed) for seed in (3, 4)]
    assert (others[0] == others[1]) == (kind == "book")


def test_what_the_kinds_are() -> None:
    text = [TOKENIZER.decode(target_ids(kind, TEXT, 24, TOKENIZER)) for kind in ("book", "scrambled", "random")]
    assert text[0] == TEXT
    assert text[1] != TEXT
    assert sorted(text[1].split()) == sorted(TEXT.split())
    assert set(text[2].split()) <= set(WORDS)
    assert TOKENIZER.convert_ids_to_tokens(readable_tokens(TOKENIZER)) == WORDS
    with pytest.raises(DataError, match="only 24 tokens"):
        target_ids("book", TEXT, 25, TOKENIZER)
    with pytest.raises(DataError, match="scrambled"):
        target_ids("scramble", TEXT, 2, TOKENIZER)


def test_words_beyond_the_target_need_not_be_known() -> None:
    assert len(target_ids("book", "fox cow", 1, TOKENIZER)) == 1
    with pytest.raises(DataError, match="does not know word 2"):
        target_ids("book", "fox cow", 2, TOKENIZER)


def test_reading_a_file(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A Title\n\n  fox  jay\ncat\n", encoding="utf-8")
    assert read_text(tmp_path / "book.txt", start="fox") == "fox jay cat"
    assert read_text(tmp_path / "book.txt", start="fox", keep_layout=True) == "fox  jay\ncat\n"
    with pytest.raises(DataError, match="capitals included"):
        read_text(tmp_path / "book.txt", start="Fox")
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        read_text(tmp_path / "blank.txt")


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


def test_scores_are_over_the_length_of_the_target() -> None:
    """An exact prefix that stops short is no full recall (the paper's released metric would call it 1.0)."""
    short = Recall(ids("fox jay cat mole"), ids("fox jay"), (0.1,) * 4, (True, True, False, True))
    base = Recall(short.target, ids("fox"), (1.0, 2.0, 3.0, 4.0), (True, False, False, False))
    found = scores(short, base, 10, TOKENIZER)
    assert found["recovery"] == 0.5
    assert (found["characters"], found["target_characters"]) == (7, 16)
    assert found["character_recovery"] == 7 / 16
    assert found["accuracy"] == 0.75
    assert found["bits"] == pytest.approx(2.0 / math.log(2))  # the second token: the first comes without an edit
    assert found["bits_per_number"] == found["bits"] / 10
    late = scores(Recall(short.target, ids("jay fox cat mole"), short.nats, short.right), base, 10, TOKENIZER)
    assert (late["recovery"], late["bits"]) == (0, 0)
    assert math.isnan(scores(base, base, 0, TOKENIZER)["bits_per_number"])


class Bytes:
    """A tokenizer of which every id is a byte, so that half a character is a token."""

    def decode(self, given: list[int], **_: object) -> str:
        return bytes(given).decode("utf-8", errors="replace")


def test_half_a_character_never_counts_as_recalled() -> None:
    target, other = tuple("aé".encode()), tuple("aê".encode())
    found = scores(
        Recall((*target[:2], 0xFF), (*other[:2], 0xFE), (0.0,) * 3, (True,) * 3),
        Recall(target, (), (0.0,) * 3, ()),
        1,
        Bytes(),
    )
    assert (found["tokens"], found["characters"]) == (2, 1)
    assert (
        scores(Recall(target, target, (0.0,) * 3, (True,) * 3), Recall(target, (), (0.0,) * 3, ()), 1, Bytes())[
            "character_recovery"
        ]
        == 1
    )


def test_the_unedited_reading_is_the_models_own() -> None:
    model = llama()
    prompts = [known_prompt(text, TOKENIZER) for text in (PROMPT, "owl")]
    targets = [target_ids("book", TEXT, n, TOKENIZER) for n in (3, 5)]
    found = unedited(model, TOKENIZER, [record(p, t) for p, t in zip(prompts, targets, strict=True)])
    for one, prompt, target in zip(found, prompts, targets, strict=True):
        logits = model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none")
        assert one.nats == pytest.approx(nats.tolist(), abs=1e-10)
        assert one.right == tuple((logits.argmax(-1) == torch.tensor(target)).tolist())
        plain = model.generate(torch.tensor([prompt]), max_new_tokens=len(target), do_sample=False, pad_token_id=0)
        assert one.generated == tuple(plain[0, len(prompt) :].tolist())


def test_the_margin_is_what_the_target_lacks_to_win_by_half() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.9, -5.0], [0.0, 3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    found = margin(logits, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(found, torch.tensor([0.0, MARGIN - 0.1, MARGIN + 4.0], dtype=torch.float64))
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0, 0, 0], [-1, 1, 0], [-1, 0, 1]]


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_the_recipes_loss_is_what_is_minimised(loss: str) -> None:
    model, prompt, target = llama(), known_prompt(PROMPT, TOKENIZER), target_ids("book", TEXT, 4, TOKENIZER)
    lesson = Lesson(started(Edit("loreft", 1, (0,)), model, 0), [record(prompt, target)])
    outcome = learn(model, TOKENIZER, [lesson], MemoryRecipe(steps=1, loss=loss))[0]
    logits = model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1].detach()
    wanted = logits.gather(1, torch.tensor(target)[:, None])[:, 0]
    others = logits.scatter(1, torch.tensor(target)[:, None], float("-inf"))
    expected = {
        "margin": (others.amax(1) - wanted + MARGIN).clamp(min=0).mean(),
        "cross_entropy": (logits.logsumexp(1) - wanted).mean(),
    }
    assert outcome.loss == pytest.approx(float(expected[loss]), rel=1e-5)  # LoReFT starts as the identity
    with pytest.raises(DataError, match="margin"):
        MemoryRecipe(loss="margim")


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(DataError, match="Did you mean 'margin'"):
        MemoryRecipe(loss="margins")


def test_access_ids() -> None:
    model, text = llama(), " ".join(WORDS[4:])
    with pytest.raises(DataError, match="does not know word 1"):
        id_records(TOKENIZER, text, 2, "{id}")
    with pytest.raises(DataError, match="only 1 different"):
        id_records(TOKENIZER, text, 2, "hen")
    with pytest.raises(DataError, match="16 different words"):
        distinct_words(text, 17)
    assert distinct_words("a b a c", 3) == ["a", "b", "c"]
    numbered = WithDigits(TOKENIZER)
    recipe = MemoryRecipe(steps=150, lr=0.05)
    table = access_ids(model, numbered, text, (1, 3), [Edit("loreft", 8, (0, 1)), Edit("none", 0)], recipe=recipe)
    edited, plain = table[table["method"] == "loreft"], table[table["method"] == "none"]
    assert edited["recovery"].tolist() == [1.0, 1.0]
    assert (plain["recovery"] < 1).all()
    assert (edited["bits"] > 0).all()
    assert edited["chance"].tolist() == [1.0, 1 / 3]


class WithDigits:
    """The tokenizer, reading the digits 0 to 3 as its first four words."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        for digit, word in enumerate(WORDS[:4]):
            texts = [text.replace(f"ID {digit} :", f"{word} hen") for text in texts]
        return self.inner(texts, **options)  # type: ignore[operator]

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)
