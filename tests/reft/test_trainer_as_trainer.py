"""Whatever `transformers.Trainer` does for a plain model, `ReftTrainer` does for a model under a graph."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

import causal_reft as cr
from causal_reft.errors import DataError, StorageError
from tests.reft.test_trainer import PAIRS, arguments, reft_of

CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
EVALUATING = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}


def metrics_of(prediction) -> dict[str, float]:
    read = prediction.label_ids[:, 1:] != -100
    right = prediction.predictions.argmax(-1)[:, :-1] == prediction.label_ids[:, 1:]
    return {"accuracy": float(right[read].mean())}


def test_evaluation_logs_what_trainer_logs_for_a_plain_model(tokenizer, model, tmp_path):
    """`eval_loss`, the metrics, the best model and early stopping: the same keys and the same calls."""
    records = cr.completions(PAIRS, tokenizer)
    changes = {**EVALUATING, "max_steps": 60, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    plain_records = [{k: v for k, v in record.items() if k != "prompt_lengths"} for record in records]

    def plain_collator(rows):
        return {k: v for k, v in cr.ReftCollator(0)(rows).items() if k != "prompt_lengths"}

    logs = {}
    for name in ("plain", "reft"):
        stop = EarlyStoppingCallback(early_stopping_patience=3)
        common = {"compute_metrics": metrics_of, "callbacks": [stop]}
        args = arguments(tmp_path / name, **changes, learning_rate=1e-2 if name == "reft" else 0.0)
        if name == "plain":
            common |= {"data_collator": plain_collator}
            data = [{**r, "prompt_lengths": 1} for r in plain_records]
            trainer = Trainer(model, args, train_dataset=data, eval_dataset=data, **common)
            trainer.args.remove_unused_columns = False
        else:
            trainer = cr.ReftTrainer(reft_of(model, tokenizer), args, records, records, **common)
        trainer.train()
        logs[name] = trainer.state.log_history
        assert trainer.state.best_metric is not None
        assert trainer.state.global_step < 60, "it stops early"
    keys = {name: {key for entry in entries for key in entry} for name, entries in logs.items()}
    assert keys["reft"] == keys["plain"]
    assert {"eval_loss", "eval_accuracy"} <= keys["reft"]


def test_the_best_model_is_the_best(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    changes = {**EVALUATING, "max_steps": 30, "learning_rate": 0.3, "load_best_model_at_end": True}
    trainer = cr.ReftTrainer(reft_of(model, tokenizer), arguments(tmp_path, **changes), records, records)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_the_evaluation_loss_is_the_model_own(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    reft = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path), records, records)
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        assert found == pytest.approx(float(reft(**cr.ReftCollator(0)(records)).loss), rel=1e-6)


@pytest.mark.parametrize("planned", [True, False])
def test_label_smoothing_shifts_labels(tokenizer, model, tmp_path, planned):
    records, smoothing = cr.completions(PAIRS, tokenizer), 0.2
    reft = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path, label_smoothing_factor=smoothing), records)
    if not planned:
        trainer._why_full = lambda inputs: "asked for"
    batch = cr.ReftCollator(0)(records)
    found = float(trainer.compute_loss(reft, dict(batch)).detach())
    with torch.no_grad():
        logp = reft(**batch).logits[:, :-1].double().log_softmax(-1)
    targets = batch["labels"][:, 1:]
    read = targets != -100
    nll = -logp.gather(2, targets.clamp_min(0)[..., None])[..., 0][read].mean()
    uniform = -logp.mean(-1)[read].mean()
    assert found == pytest.approx(float((1 - smoothing) * nll + smoothing * uniform), rel=1e-5)
    assert trainer.why_full == ("" if planned else "asked for")


def test_an_edit_without_any_effect_is_refused(tokenizer, model, tmp_path):
    last = model.config.num_hidden_layers - 1
    reft = cr.IntervenedModel(model, cr.loreft(cr.Site(last, positions="first"), 16, 2), tokenizer)
    with pytest.raises(DataError, match=r"cannot be trained: .*gradient is exactly zero"):
        cr.ReftTrainer(reft, arguments(tmp_path), cr.completions(PAIRS[:2], tokenizer)).train()


def flops_of(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_later_epochs_cost_what_fit_costs(tokenizer, model, tmp_path):
    """Both keep what does not change; counted over two and over six epochs, so that the first epoch cancels."""
    records = cr.completions(PAIRS * 4, tokenizer)

    def trained(epochs: int):
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer)
        cr.ReftTrainer(reft, arguments(tmp_path, max_steps=-1, num_train_epochs=epochs), records).train()

    def fitted(epochs: int):
        reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer)
        cr.fit(reft, cr.as_examples(records, tokenizer), epochs=epochs, batch_size=3, progress=False)

    costs = [flops_of(partial(run, 6)) - flops_of(partial(run, 2)) for run in (trained, fitted)]
    assert costs[0] == pytest.approx(costs[1], rel=0.1)


def test_bf16_takes_the_planned_path(tokenizer, model, tmp_path):
    """Counted over steps 3 to 6, after the self-check, which measures rounding noise in half precision only."""
    records = cr.completions(PAIRS * 2, tokenizer)
    cost, losses = {}, {}
    for bf16 in (False, True):
        for steps in (2, 6):
            reft = cr.IntervenedModel(model, cr.loreft(cr.Site(1, positions="last"), 16, 2), tokenizer)
            trainer = cr.ReftTrainer(
                reft, arguments(tmp_path, max_steps=steps, bf16=bf16, logging_steps=steps), records
            )
            cost[bf16, steps] = flops_of(trainer.train)
            losses[bf16] = trainer.state.log_history[0]["loss"]
            assert trainer.why_full == ""
    assert cost[True, 6] - cost[True, 2] == cost[False, 6] - cost[False, 2] > 0
    assert losses[True] != losses[False] == pytest.approx(losses[True], rel=0.05)


def test_what_is_computed_in_full_says_why_once(tokenizer, model, tmp_path, caplog):
    reft = reft_of(model, tokenizer)
    changes = {CHECKPOINTING: True, "max_steps": 3}
    trainer = cr.ReftTrainer(reft, arguments(tmp_path, **changes), cr.completions(PAIRS, tokenizer))
    trainer.train()
    said = [record.message for record in caplog.records if "in full" in record.message]
    assert said == ["Steps are computed in full: gradient checkpointing recomputes blocks."]


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_gradient_checkpointing_leaves_the_dropout_of_the_base_off(tokenizer, tmp_path, family):
    torch.manual_seed(0)
    size = len(tokenizer)
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    else:
        config = OPTConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, dropout=0.3,
            max_position_embeddings=64, word_embed_proj_dim=16, layerdrop=0.0, pad_token_id=0,
        )  # fmt: skip
        model = OPTForCausalLM(config)
    records, losses = cr.completions(PAIRS, tokenizer), []
    for checkpointing in (False, True):
        reft = reft_of(model, tokenizer)
        changes = {CHECKPOINTING: checkpointing, "max_steps": 4, "logging_steps": 1}
        trainer = cr.ReftTrainer(reft, arguments(tmp_path, **changes), records)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_trained_head_is_saved_beside_the_graph(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64, num_labels=3, pad_token_id=0
    )
    base = GPT2ForSequenceClassification(config)
    base.save_pretrained(tmp_path / "base")
    base = GPT2ForSequenceClassification.from_pretrained(tmp_path / "base")
    rows = [tokenizer(text)["input_ids"] for text in ("the cat sees a dog", "a dog", "who is it")]

    def collate(records):
        batch = cr.ReftCollator(0)([{**r, "labels": r["input_ids"], "prompt_lengths": 1} for r in records])
        del batch["prompt_lengths"]
        return {**batch, "labels": torch.tensor([r["label"] for r in records])}

    data = [{"input_ids": ids, "label": number} for number, ids in enumerate(rows)]
    reft = cr.IntervenedModel(base, cr.loreft(cr.Site(0, positions="last"), 16, 2), tokenizer)
    trainer = cr.ReftTrainer(reft, arguments(tmp_path / "out"), data, data, data_collator=collate)
    before = base.score.weight.clone()
    trainer.train()
    assert not torch.equal(before, base.score.weight)
    assert torch.equal(base.transformer.wte.weight, GPT2ForSequenceClassification.from_pretrained(tmp_path / "base")
                       .transformer.wte.weight)  # fmt: skip
    reft.save_pretrained(tmp_path / "saved")
    again = cr.IntervenedModel.from_pretrained(tmp_path / "saved", tokenizer=tokenizer)
    assert type(again.base_model) is GPT2ForSequenceClassification
    batch = collate(data)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, reft(**batch).logits)
    other = GPT2ForSequenceClassification(GPT2Config(**{**config.to_dict(), "num_labels": 2}))
    with pytest.raises(StorageError, match=r"score\.weight.*shape \(2, 16\)"):
        cr.IntervenedModel.from_pretrained(tmp_path / "saved", other)


def test_a_lora_trained_beside_the_graph_is_resumed(tokenizer, model, tmp_path):
    peft = pytest.importorskip("peft")

    def made():
        torch.manual_seed(0)
        from tests import words

        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        return reft_of(peft.get_peft_model(words.model(), lora), tokenizer)

    records, changes = cr.completions(PAIRS, tokenizer), {"save_strategy": "steps", "save_steps": 10, "max_steps": 20}
    whole = made()
    cr.ReftTrainer(whole, arguments(tmp_path / "whole", **changes), records, train_base=True).train()
    resumed = made()
    trainer = cr.ReftTrainer(resumed, arguments(tmp_path / "resumed", **changes), records, train_base=True)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    assert whole.graph == resumed.graph
    for (name, one), (_, two) in zip(
        whole.base_model.named_parameters(), resumed.base_model.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name


def test_generation_at_evaluation(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    reft = reft_of(model, tokenizer)
    options = {k: v for k, v in vars(arguments(tmp_path)).items() if k in ("report_to", "disable_tqdm", "use_cpu")}
    args = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=4, dataloader_pin_memory=False, **options
    )
    seen = []
    trainer = cr.ReftTrainer(
        reft, args, records, records, compute_metrics=lambda p: seen.append(p.predictions) or {"n": len(p.predictions)}
    )
    assert trainer.evaluate()["eval_n"] == len(records)
    texts = tokenizer.batch_decode(seen[0].clip(0), skip_special_tokens=True)
    assert texts == cr.generate_texts(reft, [prompt for prompt, _ in PAIRS], max_new_tokens=4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tokenizer": None}, "processing_class=tokenizer"),
        ({"metrics": None}, "Did you mean 'compute_metrics'|has no option 'metrics'"),
        ({"train_base": ["skore"]}, "no module 'skore'"),
    ],
)
def test_options_that_do_not_exist_are_refused(tokenizer, model, tmp_path, options, match):
    with pytest.raises(DataError, match=match):
        cr.ReftTrainer(reft_of(model, tokenizer), arguments(tmp_path), [], **options)


def test_neftune_is_refused(tokenizer, model, tmp_path):
    with pytest.raises(DataError, match="neftune"):
        cr.ReftTrainer(reft_of(model, tokenizer), arguments(tmp_path, neftune_noise_alpha=1.0), [])


def test_model_init_makes_the_model(tokenizer, model, tmp_path):
    records = cr.completions(PAIRS, tokenizer)
    trainer = cr.ReftTrainer(
        None, arguments(tmp_path, max_steps=2), records, model_init=lambda: reft_of(model, tokenizer)
    )
    assert trainer.train().training_loss > 0


def test_the_caller_arguments_are_not_changed(tokenizer, model, tmp_path):
    args: TrainingArguments = arguments(tmp_path)
    before = (args.remove_unused_columns, args.label_names)
    cr.ReftTrainer(reft_of(model, tokenizer), args, cr.completions(PAIRS, tokenizer))
    assert (args.remove_unused_columns, args.label_names) == before


KILLED = """
import os, random, signal, sys, torch
from transformers import TrainerCallback
import causal_reft as cr
from tests import words
from tests.reft.test_trainer import PAIRS, arguments, reft_of
torch.set_num_threads(1)
out, kill_at = sys.argv[1], int(sys.argv[2])

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

tokenizer, model = words.tokenizer(), words.model()
reft = cr.IntervenedModel(model, cr.loreft(cr.site_grid(range(2), "f1+l1"), 16, 4, seed=0, dropout=0.1), tokenizer)
changes = {"max_steps": 40, "save_strategy": "steps", "save_steps": 5, "logging_steps": 1, "save_total_limit": 3}
changes["per_device_train_batch_size"] = 2
records = cr.completions(PAIRS * 4, tokenizer)
trainer = cr.ReftTrainer(reft, arguments(out, **changes), records, callbacks=[Kill()])
trainer.train(resume_from_checkpoint=any(name.startswith("checkpoint-") for name in os.listdir(out)))
reft.save_pretrained(out + "/saved")
torch.save([entry for entry in trainer.state.log_history if "loss" in entry], out + "/curve.pt")
"""


@pytest.mark.slow
def test_a_training_killed_at_random_steps_ends_with_the_same_bits(tmp_path):
    """SIGKILL twice, with a checkpoint cut off in between; parameters and loss curve equal to the bit."""
    root, script = Path(__file__).parents[2], tmp_path / "worker.py"
    script.write_text(KILLED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    steps = sorted(
        random.Random(os.environ.get("KILL_SEED", "0")).sample(range(6, 39), int(os.environ.get("KILLS", 2)))
    )
    for name, kills in (("whole", [-1]), ("killed", [*steps, -1])):
        folder = tmp_path / name
        folder.mkdir()
        for kill_at in kills:
            done = subprocess.run(
                [sys.executable, str(script), str(folder), str(kill_at)],
                env=environment, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == (0 if kill_at < 0 else -9), done.stderr[-3000:]
            if kill_at > 0:
                cut_off = folder / f"checkpoint-{kill_at + 100}"
                cut_off.mkdir()
                (cut_off / "trainer_state.json").write_text('{"global_step": 1', encoding="utf-8")
    assert cr.load_graph(tmp_path / "whole" / "saved") == cr.load_graph(tmp_path / "killed" / "saved")
    curves = [torch.load(tmp_path / name / "curve.pt", weights_only=True) for name in ("whole", "killed")]
    assert [(entry["step"], entry["loss"]) for entry in curves[0]] == [(e["step"], e["loss"]) for e in curves[1]]


WORKER = """
import sys, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import causal_reft as cr
from tests import words
from tests.reft.test_trainer import PAIRS, arguments, reft_of
torch.set_num_threads(1)
out, size = sys.argv[1], int(sys.argv[2])
tokenizer = words.tokenizer()
records = cr.completions(PAIRS * 4, tokenizer)
for kind in ("whole", "sharded"):
    steps = 20 if kind == "whole" else 5
    changes = {"max_steps": steps, "per_device_train_batch_size": size, "ddp_backend": "gloo" if size == 2 else None}
    args, model = arguments(out, **changes), words.model()
    if kind == "sharded" and size == 2:
        for part in (*model.model.layers, model):
            fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
        assert next(model.parameters()).to_local().numel() * 2 == next(model.parameters()).numel()
    reft = reft_of(model, tokenizer)
    trainer = cr.ReftTrainer(reft, args, records)
    trainer.train()
    if trainer.is_world_process_zero():
        reft.save_pretrained(f"{out}/{kind}", overwrite=True)
        print(f"{kind}: why_full={trainer.why_full!r}")
if size == 2:
    try:
        cr.ReftTrainer(reft, arguments(out, fsdp=True), records)
    except cr.CausalReftError as error:
        print(error)
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    """With the whole model in each, and with the base model's weights sharded over both by `fully_shard`."""
    root = Path(__file__).parents[2]
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    for command, size in (([sys.executable], 4), (launch, 2)):
        done = subprocess.run(
            [*command, str(script), str(tmp_path / str(size)), str(size)],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "whole: why_full=''" in done.stdout
    assert "sharded: why_full='parameters are sharded'" in done.stdout
    assert "accelerate does not shard on this device" in done.stdout
    for kind in ("whole", "sharded"):
        one, two = (cr.load_graph(tmp_path / size / kind) for size in ("4", "2"))
        for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
