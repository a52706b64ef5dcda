"""Terms that parts of a graph add to the loss: their formulas; every way of training adds each of them once."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import causal_reft as cr
from causal_reft.errors import DataError, FeaturizerError, GraphError
from causal_reft.featurizers import noting, penalties
from tests import words
from tests.laws.test_method_table import assert_equal, hooked
from tests.models import ARCHITECTURES, blocks, llama, prompts
from tests.models import D_MODEL as D
from tests.reft.test_trainer import PAIRS, arguments
from tests.reft.test_trainer_as_trainer import CHECKPOINTING

LENGTHS, K = (5, 9, 2, 7), 3


def top_latents(layers: Any = 1, share: Any = "positions") -> cr.InterventionGraph:
    where = "all+generated"  # prompt and completion
    sites = cr.Site(layers, positions=where) if isinstance(layers, int) else cr.site_grid(layers, where)
    graph = cr.reft_r1(sites, D, k=K, seed=3, share=share)
    graph.modules.double()
    return graph


def by_hand(h: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The mean over rows of the mean latent without the K largest ones."""
    rows = [(row[real != 0] @ v).relu().sort(descending=True).values for row, real in zip(h, mask, strict=True)]
    return torch.stack([row[K:].sum() / len(row) for row in rows]).mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_penalty_of_reft_r1_is_the_mean_of_the_other_latents(family: str, side: str) -> None:
    model, batch = ARCHITECTURES[family](), prompts(LENGTHS, side)
    graph = top_latents()
    reft = cr.IntervenedModel(model, graph).train()
    M, states = graph["edit"].featurizer.basis.master, []
    hooked(model, batch, {blocks(model, family)[1]: lambda h: states.append(h)})
    with noting():
        reft(batch)
        found = penalties(reft.interventions, torch.zeros((), dtype=torch.float64))
    expected = by_hand(states[0], M[0] / M[0].norm(), batch["attention_mask"])
    assert expected > 1e-2
    assert_equal(found, expected)
    assert_equal(*(torch.autograd.grad(x, M, retain_graph=True)[0] for x in (found, expected)))


def test_a_direction_shared_by_two_layers_adds_both_and_eval_adds_nothing() -> None:
    model, batch = llama(), prompts(LENGTHS, "left")
    reft = cr.IntervenedModel(model, top_latents([0, 2], share="all"))
    zero, terms = torch.zeros((), dtype=torch.float64), []
    for graph in (reft.graph, reft.graph.only("edit_0"), reft.graph.only("edit_1")):
        one = reft.with_graph(graph).train()
        if "edit_0" not in graph:  # the second layer sees what the first one changed
            seen = reft.with_graph(reft.graph.only("edit_0") + cr.InterventionGraph(h=cr.Collect("base", cr.Site(2))))
            v = graph["edit_1"].featurizer.rows()[0]
            h = seen.collect(batch)["h"].nan_to_num(0)
            right = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
            terms.append(by_hand(h, v, right))
            continue
        with noting():
            one(batch)
            terms.append(penalties(one.interventions, zero))
    assert_equal(terms[0], terms[1] + terms[2])
    with noting():
        reft.eval()(batch)
        assert float(penalties(reft.interventions, zero)) == 0
    with pytest.raises(FeaturizerError, match="with noting"):
        penalties(reft.interventions, zero)


def gated() -> cr.InterventionGraph:
    graph = cr.jola([(0, 1), (2, 0)], D // 4)
    graph.modules.double()
    return graph


def mask_of_learned() -> cr.InterventionGraph:
    source = cr.LearnedSource(D, D, init="random")
    graph = cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Mask(cr.Identity(D)), source))
    graph.modules.double()
    return graph


def labelled(side: str = "right") -> cr.Examples:
    batch = prompts((*LENGTHS, 6, 3), side, seed=2)
    labels = batch["input_ids"].where(batch["attention_mask"] != 0, -100)
    labels[:, 0] = -100
    return cr.Examples({"base": batch}, labels)


@pytest.mark.parametrize("build", [gated, top_latents, mask_of_learned])
def test_plans_full_passes_and_joint_training_give_the_same_numbers(build: Any) -> None:
    """Gates draw once a step in each; the first step's check of a plan draws nothing."""
    trained = []
    recipe = {"epochs": 3, "batch_size": 3, "lr": 3e-2, "progress": False, "penalty": 0.5, "accumulate": 2}
    for passes in (cr.plan, cr.FullPasses):
        model = cr.IntervenedModel(llama(), build())
        torch.manual_seed(0)
        history = cr.fit(model, labelled(), passes=passes, **recipe)
        trained.append((list(model.graph.parameters()), history.table["penalty"].tolist()))
    network = llama()
    models = [cr.IntervenedModel(network, build()), cr.IntervenedModel(network, cr.loreft(cr.Site(2), D, 2))]
    torch.manual_seed(0)
    history = cr.fit_many(models, labelled(), **recipe)[0]
    trained.append((list(models[0].graph.parameters()), history.table["penalty"].tolist()))
    assert trained[0][1][-1] != trained[0][1][0]
    for parameters, penalty in trained[1:]:
        assert penalty == pytest.approx(trained[0][1], abs=1e-9)
        for mine, theirs in zip(parameters, trained[0][0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)


def test_gates_close_and_other_latents_shrink_under_a_penalty() -> None:
    for build in (gated, top_latents):
        ends = []
        for weight in (0.0, 10.0):
            model = cr.IntervenedModel(llama(), build())
            torch.manual_seed(0)
            history = cr.fit(
                model, labelled(), epochs=8, batch_size=6, lr=0.2, progress=False, penalty=weight, warmup=0.0
            )
            ends.append(history.table["penalty"].tolist()[-1])
        assert ends[1] < 0.75 * ends[0]


# --- ReftTrainer -----------------------------------------------------------------------------------------------------


def trainer_of(build: Any, folder: Path, records: Any, **options: Any) -> cr.ReftTrainer:
    changes = {name: options.pop(name) for name in list(options) if name not in ("penalty", "preference")}
    network, tokenizer = words.model(), words.tokenizer()
    reft = cr.IntervenedModel(network, build(), tokenizer)
    return cr.ReftTrainer(reft, arguments(folder, **changes), records, eval_dataset=records, **options)


single = {
    "reft_r1": partial(cr.reft_r1, cr.Site(1, "mlp_output"), 16, 1, 7),
    "jola": partial(cr.jola, [(0, 1), (1, 0)], 4),
}


def test_a_direction_that_sees_no_latent_learns_nothing_and_says_so() -> None:
    """One row that names one token has a latent of zero for half of all directions."""
    network, batch = llama(), prompts((5,), "left")
    labels = batch["input_ids"].index_fill(1, torch.tensor(0), -100)
    examples = cr.Examples({"base": batch}, labels)
    for seed, silent in ((1, True), (4, False)):
        reft = cr.IntervenedModel(network, cr.reft_r1(cr.Site(1, positions="first"), D, seed=seed))
        before = reft.graph["edit"].featurizer.rows().detach().clone()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            cr.fit(reft, examples, epochs=4, lr=0.1, progress=False)
        after = reft.graph["edit"].featurizer.rows().detach()
        assert torch.equal(before, after) is silent
        assert ["it learns nothing" in str(one.message) for one in said] == [True] * silent


@pytest.mark.parametrize("name", single)
def test_the_trainer_adds_the_penalty_in_training_only(name: str, tmp_path: Path) -> None:
    """Also under accumulation and gradient checkpointing, where the terms are not those of the recomputed forward."""
    records = cr.completions([*PAIRS, ("who sees the dog", "it is the cat")], words.tokenizer())
    found = {}
    for way, changes in {
        "no penalty": {},
        "whole": {"penalty": 2.0},
        "accumulated": {"penalty": 2.0, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        "recomputed": {
            "penalty": 2.0,
            CHECKPOINTING: True,
            f"{CHECKPOINTING}_kwargs": {"use_reentrant": False},
        },
    }.items():
        if name == "jola" and way not in ("no penalty", "whole"):
            continue  # gates draw once for each batch
        settings = {"max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1, **changes}
        trainer = trainer_of(single[name], tmp_path, records, **settings)
        before = trainer.evaluate()["eval_loss"]
        torch.manual_seed(0)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found[way] = before, losses, list(trainer.model.graph.parameters())
    assert len({round(before, 6) for before, _, _ in found.values()}) == 1, "eval_loss is without it"
    assert found["whole"][1][0] > found["no penalty"][1][0] + 1e-3
    for way in set(found) - {"whole", "no penalty"}:
        assert found[way][1] == pytest.approx(found["whole"][1], abs=2e-4)
        for mine, theirs in zip(found[way][2], found["whole"][2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_preferences_and_the_small_loop_add_the_same_term(tmp_path: Path) -> None:
    tokenizer = words.tokenizer()
    pairs = [("who is it", "the cat", "a dog"), ("a dog sees", "the owl", "it is")]
    records = cr.preferences(pairs, tokenizer)
    losses = []
    for weight in (0.0, 2.0):
        trainer = trainer_of(single["reft_r1"], tmp_path, records, max_steps=1, logging_steps=1, penalty=weight)
        trainer.train()
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    reft = cr.IntervenedModel(words.model(), single["reft_r1"](), tokenizer).train()
    batch = trainer.data_collator([records[0], records[1]])
    with noting():
        for side in ("chosen", "rejected"):
            reft({key: value for key, value in batch[side].items() if key != "labels"})
        expected = penalties(reft.interventions, torch.zeros(())).item()
    assert losses[1] - losses[0] == pytest.approx(2 * expected, abs=2e-4) and expected > 1e-3

    completions = cr.completions(PAIRS, tokenizer)
    trainer = trainer_of(single["reft_r1"], tmp_path, completions, max_steps=1, logging_steps=1, penalty=2.0)
    trainer.train()
    model = cr.IntervenedModel(words.model(), single["reft_r1"](), tokenizer)
    step = cr.fit(model, cr.as_examples(completions, tokenizer), max_steps=1, batch_size=3, progress=False).steps[0]
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert logged == pytest.approx(step["loss"] + 2 * step["penalty"], abs=2e-4)


def test_the_trainer_anneals_masks_as_fit_does(tmp_path: Path) -> None:
    records = cr.completions(PAIRS, words.tokenizer())

    def build() -> cr.InterventionGraph:
        source = cr.LearnedSource(16, 16, init="random")
        return cr.InterventionGraph(edit=cr.Interchange(cr.Site(1), cr.Mask(cr.Identity(16)), source))

    trainer = trainer_of(build, tmp_path, records, max_steps=4)
    trainer.train()
    assert trainer.model.graph["edit"].featurizer.temperature == pytest.approx(0.01)


def test_reentrant_checkpointing_would_lose_the_gradient_and_is_refused() -> None:
    model = llama()
    reft = cr.IntervenedModel(model, cr.reft_r1(cr.Site(1, "mlp_output"), D)).train()
    reft.gradient_checkpointing_enable({"use_reentrant": True})
    model.train()
    with noting(), pytest.raises(FeaturizerError, match="use_reentrant=False"):
        reft(prompts(LENGTHS, "left"))


# --- AxBench's steering ----------------------------------------------------------------------------------------------


def test_steering_adds_alpha_times_the_largest_latent(tmp_path: Path) -> None:
    small = cr.load_embedded()
    model, tokenizer, d = small.model, small.tokenizer, small.model.config.hidden_size
    reft = cr.IntervenedModel(model, cr.reft_r1(cr.Site(1), d, seed=1), tokenizer)
    texts = [row["prompt"] for row in small.german_examples[:3]]
    reft.save_pretrained(tmp_path / "trained")
    again = cr.IntervenedModel.from_pretrained(tmp_path / "trained", model, tokenizer)
    graph = cr.steer_latents(again, texts, alpha=0.5)
    v, largest = reft.graph["edit"].featurizer.rows()[0].detach(), 0.0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[2]
        largest = max(largest, float((states[0] @ v).max()))
    change = graph["steer"].source.source.tensor
    torch.testing.assert_close(change, torch.tensor([0.5 * largest]), rtol=1e-5, atol=0)
    assert graph["steer"].featurizer.rows().shape == (1, d) and largest > 0
    assert len(cr.generate_texts(again.with_graph(graph), texts, max_new_tokens=3)) == 3
    graph.save(tmp_path / "steering")
    assert cr.load_graph(tmp_path / "steering") == graph
    with pytest.raises(GraphError, match="steer_latents"):
        again.generate(texts[0], num_beams=2, max_new_tokens=2)
    with pytest.raises(DataError, match="has no latents"):
        cr.steer_latents(again.with_graph(graph), texts, node="steer")
    with pytest.raises(GraphError, match="from 1 on"):
        cr.reft_r1(cr.Site(1), d, k=0)


def test_gates_are_drawn_as_hard_concrete() -> None:
    """With torch's own draws, against the formula of Louizos et al. 2018; without training nothing is drawn."""
    source = cr.GatedScale(3).double()
    logits = torch.tensor([0.3, -0.8], dtype=torch.float64)
    source.logits.data.copy_(logits)
    for seed in range(8):
        torch.manual_seed(seed)
        found = source.gates(training=True)
        torch.manual_seed(seed)
        u = torch.rand(2, dtype=torch.float64)
        s = torch.sigmoid((torch.log(u) - torch.log(1 - u) + logits) / 0.33)
        torch.testing.assert_close(found.detach(), (1.2 * s - 0.1).clamp(0, 1), rtol=0, atol=1e-4)
    wanted = (1.2 * torch.sigmoid(logits) - 0.1).clamp(0, 1)
    torch.testing.assert_close(source.gates(training=False).detach(), wanted)
