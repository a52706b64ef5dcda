"""Silent wrong results that people met in other libraries. Each is a test here, and its name tells the story."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import GraphError, PositionError, RunError, SiteError, StorageError
from tests.models import D_MODEL as D
from tests.models import ToyMLP, at_real_tokens, blocks, gpt2, llama, prompts, same_prompts


@contextmanager
def zeroed_columns(model: nn.Module) -> Iterator[list[list[list[int]]]]:
    """For each forward inside, the columns that arrive at block 2 as zeros, row by row: what an ablation hit."""
    forwards: list[list[list[int]]] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        forwards.append([(row == 0).all(-1).nonzero().flatten().tolist() for row in args[0]])

    handle = blocks(model, "gpt2")[2].register_forward_pre_hook(look)
    yield forwards
    handle.remove()


def edited_tokens(model: cr.IntervenedModel, batch: dict[str, Tensor], **more: Any) -> list[list[int]]:
    """The columns of each row that one forward edits."""
    with zeroed_columns(model.base_model) as forwards:
        model(dict(batch), **more)
    return forwards[0]


def ablating(positions: Any, model: nn.Module | None = None, layer: int = 1) -> cr.IntervenedModel:
    node = cr.Interchange(cr.Site(layer, positions=positions), cr.Identity(D), cr.Constant(0.0))
    return cr.IntervenedModel(gpt2() if model is None else model, cr.InterventionGraph(edit=node))


@pytest.mark.parametrize("side", ["left", "right"])
def test_01_training_on_one_token_and_testing_on_its_neighbour(side: str) -> None:
    """One position object means one token: with the answer after it in training, alone in generation."""
    model = ablating("last")
    text, prompt_length = prompts([7, 5], side), [4, 3]
    labels = torch.full_like(text["input_ids"], -100)
    wanted = []
    for row, length in enumerate(prompt_length):
        start = int(text["attention_mask"][row].argmax())
        real = int(text["attention_mask"][row].sum())
        labels[row, start + length : start + real] = text["input_ids"][row, start + length : start + real]
        wanted.append([start + length - 1])
    assert edited_tokens(model, text, labels=labels) == wanted
    alone = [ids[m != 0][:n] for ids, m, n in zip(*text.values(), prompt_length, strict=True)]
    for row, ids in enumerate(alone):
        with zeroed_columns(model.base_model) as forwards:
            model.generate(ids[None], max_new_tokens=3, do_sample=False)
        assert forwards == [[[prompt_length[row] - 1]], [[]], [[]]], "the same token in generation, and no decoded one"


def test_02_an_integer_position_left_state_behind_for_later_calls() -> None:
    model, batch = ablating("subject"), prompts([5, 6], "right")
    spans = {"subject": [[1], [3]]}
    first = model(batch, spans=spans).logits
    ablating(2, model.base_model)(batch)
    model(batch, spans={"subject": [0, 0]})
    assert torch.equal(model(batch, spans=spans).logits, first)


def test_03_one_position_for_a_batch_wrote_the_first_example_into_all() -> None:
    patch = cr.IntervenedModel(gpt2(), cr.patch(cr.Site(1, positions=2), D))
    base, source = prompts([5, 5, 5], "none", seed=1), prompts([5, 5, 5], "none", seed=2)
    together = patch(base, source=source).logits
    for row in range(3):
        one = patch({k: v[[row]] for k, v in base.items()}, source={k: v[[row]] for k, v in source.items()}).logits
        torch.testing.assert_close(together[[row]], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fails", [False, True], ids=["", "also after an exception"])
def test_04_every_call_removed_the_users_own_hooks(fails: bool) -> None:
    model, calls = gpt2(), []
    block = blocks(model, "gpt2")[1]
    mine = [
        block.register_forward_hook(lambda *_: calls.append("after")),
        block.register_forward_pre_hook(lambda *_: calls.append("before")),
        model.lm_head.register_forward_hook(lambda *_: calls.append("head")),
    ]
    before = {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()}
    batch = prompts([5, 6], "right")
    if fails:
        with pytest.raises(PositionError):
            ablating(99, model)(batch)
    else:
        ablating("last", model)(batch)
        ablating("last", model).generate(**batch, max_new_tokens=2)
    assert {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()} == before
    calls.clear()
    model(**batch)
    assert calls == ["before", "after", "head"] and len(mine) == 3


def test_05_of_tied_interventions_the_second_received_the_firsts_output() -> None:
    """Two edits with the same parameters at one site: both read what the model computed; a shift adds to the rest."""
    R = cr.Subspace(D, 2).double()
    learned = cr.LearnedSource(2, D, init="random").double()
    one = cr.Interchange(cr.Site(1, positions=[0]), R, learned)
    two = cr.Interchange(cr.Site(1, positions=[0, 1]), R, cr.Shift(cr.Collect("base")))
    model, batch = gpt2(), prompts([4, 4], "none")
    seen = cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))
    h = cr.IntervenedModel(model, seen)(batch).collected["seen"]
    got = cr.IntervenedModel(model, cr.InterventionGraph(one=one, two=two) + seen)(batch).collected["seen"]
    first = R.write(h[:, 0], h[:, 0] @ learned.weight.T + learned.bias)
    torch.testing.assert_close(got[:, 0], R.write(first, R.read(first) + R.read(h[:, 0])), rtol=0, atol=1e-12)
    torch.testing.assert_close(got[:, 1], R.write(h[:, 1], 2 * R.read(h[:, 1])), rtol=0, atol=1e-12)


def test_05_a_tied_edit_at_two_positions_is_two_edits_of_what_the_model_computed() -> None:
    tied = cr.loreft(cr.Site(1, positions="f1+l1"), D, 2, init="random")
    tied.modules.double()
    node = tied["edit"]
    apart = cr.InterventionGraph(
        first=cr.Interchange(cr.Site(1, positions="first"), node.featurizer, node.source),
        last=cr.Interchange(cr.Site(1, positions="last"), node.featurizer, node.source),
    )
    model, batch = gpt2(), prompts([5, 3], "right")
    one, two = (cr.IntervenedModel(model, graph)(batch).logits for graph in (tied, apart))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-13)


def test_06_eval_left_dropout_on_and_dropout_hit_the_whole_stream() -> None:
    """Dropout acts on the edit alone, only in training, and on the graph's mode, not the base model's."""
    node = cr.Interchange(cr.Site(1, positions=1), cr.Identity(D), cr.Shift(cr.Constant(1.0)), dropout=0.5)
    model, batch = cr.IntervenedModel(gpt2(), cr.InterventionGraph(edit=node)), prompts([4], "none")
    seen = model.graph + cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))
    h = model.with_graph(cr.InterventionGraph(seen=seen["seen"]))(batch).collected["seen"][0]
    model = model.with_graph(seen)
    dropped = (model.train()(batch).collected["seen"][0] - h).round(decimals=9)
    assert set(dropped[1].tolist()) == {0.0, 2.0}, "each coordinate of the edit is dropped, or kept and scaled"
    assert not dropped[[0, 2, 3]].any(), "the stream is not"
    model.eval()
    torch.testing.assert_close(model(batch).collected["seen"][0, 1] - h[1], torch.ones(D).double())
    assert torch.equal(model(batch).logits, model(batch).logits)


def test_07_a_list_of_positions_meant_source_2_to_base_5() -> None:
    batch = prompts([7, 7], "none")
    assert edited_tokens(ablating([2, 5]), batch) == [[2, 5], [2, 5]]
    patch = cr.InterventionGraph(
        edit=cr.Interchange(cr.Site(1, positions=5), cr.Identity(D), cr.Collect("source", cr.Site(1, positions=2)))
    )
    seen = cr.InterventionGraph(
        at_2=cr.Collect("source", cr.Site(1, positions=2)), at_5=cr.Collect("base", cr.Site(1, positions=5))
    )
    got = cr.IntervenedModel(gpt2(), patch + seen)(batch, source=prompts([7, 7], "none", seed=4)).collected
    assert torch.equal(got["at_5"], got["at_2"]), "another position of the source is said in Collect"


@pytest.mark.parametrize("side", ["left", "right"])
def test_08_on_short_prompts_f3_l3_edited_the_first_answer_token(side: str) -> None:
    text = prompts([6, 8], side)
    starts = text["attention_mask"].argmax(1).tolist()
    found = edited_tokens(ablating("f3+l3"), text, prompt_lengths=[2, 5])
    assert found == [[starts[0], starts[0] + 1], [starts[1] + i for i in range(5)]]


def test_09_the_callers_lists_and_tensors_were_changed() -> None:
    positions, spans = [1, 2], {"subject": [[0], [2, 1]]}
    batch = prompts([4, 5], "right")
    copies = {key: value.clone() for key, value in batch.items()}
    model = ablating(positions).with_graph(ablating(positions).graph + cr.InterventionGraph(
        other=cr.Interchange(cr.Site(2, positions="subject"), cr.Identity(D), cr.Constant([1.0] * D))))  # fmt: skip
    given = {**batch, "spans": spans}
    keys = list(given)
    model(given)
    assert positions == [1, 2] and spans == {"subject": [[0], [2, 1]]} and list(given) == keys
    assert all(torch.equal(batch[key], copies[key]) for key in batch)


def test_09_hidden_states_were_edited_in_place() -> None:
    """What the model computed before the edit is intact, and differentiating through it gives finite differences."""
    toy, x = ToyMLP(), torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    kept: list[Tensor] = []
    toy.first.register_forward_hook(lambda m, a, out: kept.append(out))
    node = cr.Interchange(cr.Site.at("first"), cr.Subspace(8, 2).double(), cr.Constant(1.0))
    model = cr.IntervenedModel(toy, cr.InterventionGraph(edit=node))
    model(x)
    torch.testing.assert_close(kept[0], nn.functional.linear(x, toy.first.weight, toy.first.bias), rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda v: +model(v), x)


def test_09_a_model_that_works_in_place_changed_what_had_been_collected() -> None:
    toy, inplace = ToyMLP(), ToyMLP(inplace=True)
    x, value = torch.randn(1, 6, dtype=torch.float64), -torch.ones(8, dtype=torch.float64)
    graph = cr.InterventionGraph(
        edit=cr.Interchange(cr.Site.at("first"), cr.Identity(8), cr.Constant(value)),
        early=cr.Collect("base", cr.Site.at("first")),
        late=cr.Collect("base", cr.Site.at("second")),
    )
    with torch.no_grad():
        for _ in range(2):
            one, two = cr.IntervenedModel(toy, graph)(x), cr.IntervenedModel(inplace, graph)(x)
            assert torch.equal(one, two)
            assert all(torch.equal(one.collected[name], two.collected[name]) for name in ("early", "late"))
    assert torch.equal(two.collected["early"].flatten(), value) and torch.equal(value, -torch.ones(8).double())


def test_10_pca_interchange_dropped_the_orthogonal_complement() -> None:
    model, base = gpt2(), prompts([6, 5], "right")
    states = cr.IntervenedModel(model, cr.InterventionGraph(seen=cr.Collect("base", cr.Site(1)))).collect(base)["seen"]
    top = cr.Subspace.pca(states[~states.isnan().any(-1)], 3)
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), top, cr.Collect("source")))
    torch.testing.assert_close(
        at_real_tokens(cr.IntervenedModel(model, graph)(base, source=base).logits, base),
        at_real_tokens(model(**base).logits, base),
        rtol=0, atol=1e-12,
    )  # fmt: skip


def test_10_a_full_rotation_cancels_and_its_gradient_is_noise() -> None:
    with pytest.raises(GraphError, match=r"a full rotation cancels.*Identity\(16\).*Mask"):
        cr.das(cr.Site(1), D, rank=D)
    cr.boundless_das(cr.Site(1), D)
    cr.loreft(cr.Site(1), D, rank=D)


def test_11_saving_into_a_full_folder_was_skipped_with_a_warning(tmp_path: Path) -> None:
    model = ablating("last")
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    other = model.with_graph(cr.das(cr.Site(1), D, 2))
    with pytest.raises(StorageError, match=r"not empty.*overwrite=True"):
        other.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    other.save_pretrained(tmp_path, overwrite=True)
    assert cr.load_graph(tmp_path) == other.graph


def test_11_loading_lost_the_activation_the_dtype_and_the_dropout(tmp_path: Path) -> None:
    learned = cr.LearnedSource(3, D, activation="gelu", init="random").double()
    node = cr.Interchange(cr.Site(1, positions="f1+l1"), cr.Subspace(D, 3).double(), learned, dropout=0.25)
    model, batch = cr.IntervenedModel(gpt2(), cr.InterventionGraph(edit=node)).eval(), prompts([4, 5], "left")
    model.save_pretrained(tmp_path)
    again = cr.IntervenedModel.from_pretrained(tmp_path, model.base_model)
    loaded = again.graph["edit"]
    assert loaded.source.activation == "gelu" and loaded.dropout == 0.25
    assert {p.dtype for p in again.graph.parameters()} == {torch.float64}
    assert torch.equal(again(batch).logits, model(batch).logits)


def test_11_loading_failed_for_sites_by_path(tmp_path: Path) -> None:
    toy, x = ToyMLP(), torch.randn(4, 6, dtype=torch.float64)
    site = cr.Site.at("second", port="input")
    model = cr.IntervenedModel(
        toy, cr.InterventionGraph(edit=cr.Interchange(site, cr.Subspace(8, 2), cr.Constant(2.0)))
    ).eval()
    model.save_pretrained(tmp_path / "deep" / "folder")
    again = cr.IntervenedModel.from_pretrained(tmp_path / "deep" / "folder", toy)
    assert again.graph["edit"].site == site and torch.equal(again(x), model(x))


def test_12_a_score_was_computed_on_the_first_batch_only() -> None:
    """The mean over all rows, whatever the batch size: the first rows are easy, the later ones are not."""
    from causal_reft.training import mean_loss

    toy, x = ToyMLP(), torch.randn(12, 6, dtype=torch.float64)
    labels = toy(x).argmax(-1)
    labels[4:] = (labels[4:] + 1) % 3
    model = cr.IntervenedModel(toy, cr.InterventionGraph(seen=cr.Collect("base", cr.Site.at("first"))))
    passes = cr.FullPasses(model, cr.Examples({"base": x}, labels))

    def wrong(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(-1) != targets).double()

    for size in (1, 4, 5, 12):
        assert mean_loss(passes, passes.examples, wrong, size) == pytest.approx(8 / 12)


@pytest.mark.parametrize("make", [gpt2, llama], ids=["gpt2", "llama"])
def test_13_left_padding_corrections_were_thrown_away(make: Callable[[], nn.Module]) -> None:
    """Edits, sources and collected states are those of the same texts without padding."""
    model = make()
    graph = cr.patch(cr.Site(1, positions=[1, -1]), D) + cr.InterventionGraph(
        seen=cr.Collect("base", cr.Site(2, positions="last"))
    )
    base, source = prompts([4, 7, 5], "right", seed=1), prompts([6, 4, 7], "right", seed=2)
    outputs = [
        (
            batch,
            cr.IntervenedModel(model, graph)(batch, source=same_prompts(source, "left" if extra else "right", extra)),
        )
        for extra in (0, 3)
        for batch in [same_prompts(base, "left" if extra else "right", extra)]
    ]
    (right, one), (left, two) = outputs
    torch.testing.assert_close(
        at_real_tokens(one.logits, right),
        at_real_tokens(two.logits, left),
        rtol=0,
        atol=1e-5 if make is llama else 1e-12,
    )
    torch.testing.assert_close(
        one.collected["seen"], two.collected["seen"], rtol=0, atol=1e-5 if make is llama else 1e-12
    )


def test_14_only_the_first_of_several_counterfactuals_was_kept() -> None:
    """Two variables take two sources in one call, each its own."""
    left, right = cr.Subspace(D, 4).double().split(left=2, right=2).values()
    graph = cr.InterventionGraph(
        left=cr.Interchange(cr.Site(1), left, cr.Collect("source_left")),
        right=cr.Interchange(cr.Site(1), right, cr.Collect("source_right")),
        seen=cr.Collect("base", cr.Site(1)),
        of_left=cr.Collect("source_left", cr.Site(1), left),
        of_right=cr.Collect("source_right", cr.Site(1), right),
    )
    base, one, two = (prompts([4, 4], "none", seed=seed) for seed in range(3))
    got = cr.IntervenedModel(gpt2(), graph)(base, source_left=one, source_right=two).collected
    torch.testing.assert_close(left.read(got["seen"]), got["of_left"], rtol=0, atol=1e-12)
    torch.testing.assert_close(right.read(got["seen"]), got["of_right"], rtol=0, atol=1e-12)
    assert not torch.allclose(got["of_left"], got["of_right"])


def test_15_print_raised_a_component_typo_named_nothing_and_misspelt_keywords_passed() -> None:
    model, batch = ablating("last"), prompts([4, 5], "right")
    assert "IntervenedModel(GPT2LMHeadModel" in repr(model) and "Site(1, positions='last')" in str(model)
    with pytest.raises(SiteError, match=r"'blok_output'.*Did you mean 'block_output'\?.*attention_input"):
        cr.Site(1, component="blok_output")
    with pytest.raises(RunError, match=r"'atention_mask'.*Did you mean 'attention_mask'\?"):
        model(input_ids=batch["input_ids"], atention_mask=batch["attention_mask"])
