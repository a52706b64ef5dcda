"""The trainer: what `transformers.Trainer` users expect, a base model left as it was, checkpoints of the graph
alone.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import TrainingArguments

import causal_reft as cr
from causal_reft.errors import DataError, StorageError
from causal_reft.execution.planning.selfcheck import TOLERANCE

PAIRS = [("who is it", "the cat"), ("a dog sees", "the old grey owl"), ("what", "it is a dog")]


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "max_steps": 40, "learning_rate": 3e-2, "per_device_train_batch_size": 3,
        "report_to": [],
        "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "dataloader_pin_memory": False,
        "logging_steps": 1000,
    }  # fmt: skip
    return TrainingArguments(**{**settings, **changes})


def reft_of(model, tokenizer, seed=0):
    return cr.IntervenedModel(model, cr.loreft(cr.site_grid(range(2), "f1+l1"), 16, 4, seed=seed), tokenizer)


def test_it_learns_and_leaves_the_base_as_it_was(tokenizer, model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = [p.requires_grad for p in model.parameters()]
    calls = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    reft = reft_of(model, tokenizer)
    words = [("who is it", "cat"), ("a dog sees", "owl"), ("what", "tower")]
    records = cr.completions(words, tokenizer, end=False)
    cr.ReftTrainer(reft, arguments(tmp_path, max_steps=60), train_dataset=records).train()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == asked
    assert not any(module.training for module in model.modules())
    assert calls, "the user's own hook must still fire"
    handle.remove()
    reft.eval()
    assert cr.generate_texts(reft, [prompt for prompt, _ in words], max_new_tokens=1) == [answer for _, answer in words]


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    whole = reft_of(model, tokenizer)
    saving = {"save_strategy": "steps", "save_steps": 20}
    cr.ReftTrainer(whole, arguments(tmp_path / "whole", **saving), train_dataset=records).train()
    resumed = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(resumed, arguments(tmp_path / "resumed", **saving), train_dataset=records)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-20"))
    assert whole.graph == resumed.graph
    saved = {file.name for file in (tmp_path / "whole" / "checkpoint-40").iterdir()}
    assert {"graph.json", "weights.safetensors", "intervened_model.json"} <= saved
    assert "model.safetensors" not in saved


def test_the_best_checkpoint_is_loaded_at_the_end(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    options = {
        "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 10, "eval_steps": 10,
        "load_best_model_at_end": True,
        "learning_rate": 0.5, "label_names": ["labels"],
    }  # fmt: skip
    reft = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path, **options), train_dataset=records, eval_dataset=records)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    assert reft.graph == cr.load_graph(trainer.state.best_model_checkpoint)


def test_a_checkpoint_of_another_graph_is_refused(tokenizer, model, tmp_path):
    reft_of(model, tokenizer).save_pretrained(tmp_path / "two_layers")
    other = cr.IntervenedModel(model, cr.loreft(cr.Site(1), 16, 2), tokenizer)
    trainer = cr.ReftTrainer(other, arguments(tmp_path / "out"), train_dataset=cr.completions(PAIRS, tokenizer))
    with pytest.raises(StorageError, match="another graph"):
        trainer._load_from_checkpoint(str(tmp_path / "two_layers"))


def test_gradient_accumulation_counts_every_token_once(tokenizer, model, tmp_path):
    """Two steps of accumulation over unequal completions give the parameters of one step over the whole batch."""
    records = cr.completions(PAIRS[:2], tokenizer)
    graphs = []
    for size, accumulate in ((2, 1), (1, 2)):
        reft = reft_of(model.double(), tokenizer)
        reft.interventions.double()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulate, "max_steps": 3}
        cr.ReftTrainer(reft, arguments(tmp_path, **options), train_dataset=records).train()
        graphs.append(reft.graph)
    for one, other in zip(graphs[0].parameters(), graphs[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_cost_what_must_be_computed_and_learn_the_same(tokenizer, model, tmp_path, accumulate):
    """Unequal prompts, several layers: the parameters are those of full passes (whose loss transformers computes in
    float32); the head sees the labelled tokens alone."""
    records, graphs, heads = cr.completions(PAIRS, tokenizer), [], []
    model.double()
    handle = model.lm_head.register_forward_hook(lambda module, args, out: heads.append(out.shape[:-1].numel()))
    for full in (False, True):
        reft = reft_of(model, tokenizer)
        reft.interventions.double()
        options = {"max_steps": 4, "gradient_accumulation_steps": accumulate, "per_device_train_batch_size": 3}
        trainer = cr.ReftTrainer(reft, arguments(tmp_path, **options), train_dataset=records)
        if full:
            trainer._why_full = lambda inputs: "asked for"
        trainer.train()
        assert trainer.why_full == ("asked for" if full else "")
        graphs.append(reft.graph)
        if not full:
            labelled = sum(token != -100 for record in records for token in record["labels"])
            assert heads[-1] == labelled < max(heads)
    handle.remove()
    for one, other in zip(graphs[0].parameters(), graphs[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The fast path gave other numbers")
@pytest.mark.parametrize(("allowed", "passes"), [(1e-3, 4 + 4), (-1.0, 2 + 4 * 3)])
def test_a_stream_is_checked_until_a_batch_agrees(tokenizer, model, tmp_path, monkeypatch, allowed, passes):
    """Two passes for the loss and two of the self-check before the first step, and one a step from then on."""
    records, heads = cr.completions(PAIRS, tokenizer), []
    monkeypatch.setitem(TOLERANCE, torch.float32, allowed)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(records)

    model.lm_head.register_forward_hook(lambda module, args, out: heads.append(out.shape))
    trained = []
    for data in (records, Stream()):
        heads.clear()
        trained.append(reft_of(model, tokenizer))
        cr.ReftTrainer(trained[-1], arguments(tmp_path, max_steps=4), data).train()
    assert len(heads) == passes
    for one, other in zip(*(reft.trainable_parameters() for reft in trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_loss_with_another_term_is_left_to_the_model(tokenizer, model, tmp_path):
    """Found out on the first batch, with a warning."""
    own = model.loss_function
    model.loss_function = lambda *args, **options: own(*args, **options) + 1.0
    reft = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path, max_steps=2), train_dataset=cr.completions(PAIRS, tokenizer))
    with pytest.warns(cr.CausalReftWarning, match="the model's own loss"):
        done = trainer.train()
    assert "own loss" in trainer.why_full
    assert done.training_loss > 1.0


def test_what_cannot_be_trained_is_refused(tokenizer, model, tmp_path):
    with pytest.raises(DataError, match="IntervenedModel"):
        cr.ReftTrainer(model, arguments(tmp_path), train_dataset=[])
    nothing = cr.IntervenedModel(model, cr.patch(cr.Site(1), 16), tokenizer)
    with pytest.raises(DataError, match="nothing to train"):
        cr.ReftTrainer(nothing, arguments(tmp_path), train_dataset=[])
