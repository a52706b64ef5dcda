"""One vector remembers a text: positions, the model left alone, exactness of the shared training, what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch

from causal_reft.analysis import Edit, MemoryRecipe, equal_prompt_embedding, layer_edits, memorise
from causal_reft.analysis.memorisation.edits import prompt_embedding, reach
from causal_reft.analysis.memorisation.memorise import known_prompt, memories, started
from causal_reft.analysis.memorisation.targets import target_ids
from causal_reft.analysis.memorisation.training import Lesson, learn, side_by_side
from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import FullPasses, IntervenedModel
from causal_reft.texts import record
from tests.analysis.memory_models import PROMPT, TEXT, tokenizer
from tests.models import ARCHITECTURES, D_MODEL, N_LAYERS, blocks, gpt2, llama

TOKENIZER = tokenizer()
QUICK = MemoryRecipe(steps=60, lr=0.05)


def first(output: object) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output  # type: ignore[return-value]


@pytest.mark.parametrize("family", list(ARCHITECTURES))
def test_training_edits_the_tokens_that_generation_edits(family: str) -> None:
    model = ARCHITECTURES[family]()
    ids = target_ids("book", TEXT, 5, TOKENIZER)
    prompt = known_prompt(PROMPT, TOKENIZER)
    lessons = []
    for number, edit in enumerate((Edit("consreft", 1, (1,), "last"), Edit("loreft", 2, (1,), "f1+l1"))):
        graph = started(edit, model, number)
        for parameter in graph.parameters():  # no edit at the start would leave no trace
            parameter.data += 0.5
        lessons.append(Lesson(graph, [record([*prompt, *([prompt[0]] * number)], ids)]))
    graph, examples = side_by_side(lessons, TOKENIZER)
    trained = columns_edited_in(
        model, family, lambda m: FullPasses(m, examples).scored(torch.arange(2)), IntervenedModel(model, graph)
    )
    for row, lesson in enumerate(lessons):
        length = lesson.records[0]["prompt_lengths"]
        prompt_ids = torch.tensor([lesson.records[0]["input_ids"][:length]])
        one = IntervenedModel(model, lesson.graph, TOKENIZER)
        given = {"input_ids": prompt_ids, "attention_mask": torch.ones_like(prompt_ids)}
        generated = columns_edited_in(
            model, family, lambda m, g=given: m.generate(g, max_new_tokens=3, do_sample=False), one
        )
        expected = [{length - 1}, {0, length - 1}][row]
        assert trained[row] == expected
        assert generated[0] == expected


def columns_edited_in(model, family, call, intervened) -> list[set[int]]:
    """The columns of block 1's first output that the graph changes: before our hook, and after it."""
    block, own, after = blocks(model, family)[1], [], []
    hook = block.register_forward_hook(lambda m, i, o: own.append(first(o).detach().clone()))  # runs before ours
    following = blocks(model, family)[2].register_forward_pre_hook(
        lambda m, a, k: after.append((a[0] if a else k["hidden_states"]).detach().clone()), with_kwargs=True
    )
    call(intervened)
    hook.remove()
    following.remove()
    return [set((row.abs().amax(-1) > 0).nonzero().flatten().tolist()) for row in after[0] - own[0]]


def test_the_model_is_bit_identical_afterwards() -> None:
    model = llama().train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asked = [p.requires_grad for p in model.parameters()]
    memory = memorise(model, TOKENIZER, TEXT, 2, Edit("loreft", 4, (0, 1)), PROMPT, recipe=QUICK)
    assert memory.row["steps"] > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == asked
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_comes_back_is_what_was_learned() -> None:
    model = llama()
    memory = memorise(
        model, TOKENIZER, TEXT, 3, Edit("loreft", 4, (0, 1)), PROMPT, recipe=MemoryRecipe(steps=200, lr=0.05)
    )
    assert memory.row["stopped"] == "exact"
    assert memory.row["steps"] < 200
    assert memory.row["recovery"] == memory.row["character_recovery"] == memory.row["accuracy"] == 1
    assert memory.recalled == "fox jay cat"
    encoded = TOKENIZER(PROMPT, return_tensors="pt")
    out = memory.model.generate(
        {key: encoded[key] for key in ("input_ids", "attention_mask")},
        max_new_tokens=3,
        do_sample=False,
    )
    assert TOKENIZER.decode(out[0, 3:]) == "fox jay cat"
    assert "3 of 3 tokens" in repr(memory)


def test_side_by_side_is_as_alone() -> None:
    """Also where lengths of prompts differ (a prompt embedding adds tokens) and one edit stops before the others."""
    model = llama()
    ids = target_ids("book", TEXT, 3, TOKENIZER)
    trials = [
        (Edit("consreft", 1, (0,)), 0),
        (Edit("loreft", 4, (0, 1)), 1),
        (Edit("prompt_embedding", 4), 2),
        (Edit("none", 0), 0),
    ]
    recipe = MemoryRecipe(steps=16, lr=0.05)
    together = memories(model, TOKENIZER, ids, trials, PROMPT, recipe)
    alone = [memories(model, TOKENIZER, ids, [trial], PROMPT, recipe)[0] for trial in trials]
    assert len({memory.row["steps"] for memory in alone}) > 2
    for one, other in zip(together, alone, strict=True):
        assert one.row["steps"] == other.row["steps"]
        for a, b in zip(one.model.graph.parameters(), other.model.graph.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert one.recall.generated == other.recall.generated


def test_pieces_of_a_batch_give_the_gradient_of_the_whole() -> None:
    model, ids = llama(), target_ids("book", TEXT, 3, TOKENIZER)
    found = []
    for size in (1, 64):
        graph = started(Edit("loreft", 2, (0,)), model, 0)
        records = [
            record(known_prompt(prompt, TOKENIZER), ids[: 1 + i]) for i, prompt in enumerate(("hen", "owl pig", "rat"))
        ]
        learn(model, TOKENIZER, [Lesson(graph, records)], MemoryRecipe(steps=5, batch_size=size))
        found.append(torch.cat([p.detach().flatten() for p in graph.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_prompt_embedding_is_inputs_embeds(make) -> None:
    model, graph = make(), prompt_embedding(make(), 2)
    ids = torch.tensor([[5, 6, 6, 6, 9, 10]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "prompt_lengths": torch.tensor([4])}
    found = IntervenedModel(model, graph)(given).logits
    embeds = model.get_input_embeddings()(ids).clone()
    for number in range(2):
        embeds[0, 2 + number] = graph.edits[f"vector_{number}"].source.bias.to(embeds.dtype)
    torch.testing.assert_close(found, model(inputs_embeds=embeds).logits, rtol=1e-12, atol=1e-12)
    assert graph.n_trainable_parameters == 2 * D_MODEL


def test_learned_numbers_are_those_of_the_table() -> None:
    model, d = llama(), D_MODEL
    numbers = {
        edit: edit.graph(model, 0).n_trainable_parameters
        for edit in (Edit("consreft", 3, (0,)), Edit("loreft", 3, (0,)), Edit("loreft", 3, (0, 2)))
    }
    assert list(numbers.values()) == [3 * d + 3, 6 * d + 3, 2 * (6 * d + 3)]
    assert equal_prompt_embedding(model, Edit("loreft", 3, (0,))) == Edit("prompt_embedding", 6)
    assert equal_prompt_embedding(model, Edit("consreft", 1, (0,))) == Edit("prompt_embedding", 1)
    assert [edit.layers for edit in layer_edits(model)] == [(0,), (1,), (2,), (), ()]


def test_the_last_layer_changes_the_first_token_alone() -> None:
    model = llama()
    last = Edit("loreft", 4, (N_LAYERS - 1,))
    assert [reach(model, Edit("consreft", 1, (layer,)), 3, 8) for layer in range(N_LAYERS)] == [8, 8, 1]
    assert reach(model, Edit("consreft", 1, (N_LAYERS - 1,), "first"), 3, 8) == 0
    assert reach(model, Edit("consreft", 1, (0, N_LAYERS - 1)), 3, 8) == 8
    assert reach(model, Edit("prompt_embedding", 1), 3, 8) == 8
    with pytest.warns(CausalReftWarning, match="first new token"):
        memory = memorise(model, TOKENIZER, TEXT, 6, last, PROMPT, recipe=QUICK)
    assert memory.row["note"] == "changes only the first new token"
    assert memory.row["stopped"] == "exact"  # of what it can reach
    assert memory.recall.right[0]
    plain = memories(model, TOKENIZER, memory.recall.target, [(Edit("none", 0), 0)], PROMPT)[0]
    assert memory.recall.nats[0] != plain.recall.nats[0]
    assert memory.recall.nats[1:] == pytest.approx(plain.recall.nats[1:], abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memorise(model, TOKENIZER, TEXT, 1, last, PROMPT, recipe=QUICK)


def test_a_text_beyond_the_context_is_refused() -> None:
    book = " ".join([TEXT] * 4)
    with pytest.raises(DataError, match="n <= 61"):
        memorise(llama(), TOKENIZER, book, 62, Edit("consreft", 1, (0,)), PROMPT)
    with pytest.raises(DataError, match="n <= 59"):
        memorise(llama(), TOKENIZER, book, 62, Edit("prompt_embedding", 2), PROMPT)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Edit("consfert", 1, (0,)), "consreft"),
        (lambda: Edit("loreft", 1), "layers=\\(3,\\)"),
        (lambda: Edit("none", 0, (1,)), "takes no layers"),
        (lambda: memorise(llama(), TOKENIZER, TEXT, 2, Edit("loreft", 1, (0,)), ""), "no tokens"),
        (lambda: memorise(llama(), TOKENIZER, TEXT, 2, Edit("loreft", 1, (0,)), "hen cow"), "does not know word 2"),
    ],
)
def test_mistakes_are_told(wrong, told: str) -> None:
    with pytest.raises(DataError, match=told):
        wrong()
