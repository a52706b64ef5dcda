"""One finetuning: a method trained on one benchmark's records with one learning rate and seed, then scored.

Every method is trained by `transformers.Trainer` with the same arguments on the same records in the same order
(`ReftTrainer` is such a trainer), and scored by greedy generation, or by the loss of held-out completions.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback, TrainingArguments

import causal_reft as cr
from causal_reft.errors import DataError, nearest
from causal_reft.experiments.finetuning.benchmarks import ACCURACY, BENCHMARKS, Item
from causal_reft.experiments.finetuning.methods import METHODS, Shape
from causal_reft.experiments.models import identity_of
from causal_reft.reft import completion_losses
from causal_reft.sweeps import Result, Store, digest_of, run, tick
from causal_reft.texts import pad_token_id

SCORED_TOGETHER = 32  # prompts that are answered in one batch: a step of generation costs about the same for all sizes


@dataclass(frozen=True)
class FinetuningCell:
    """One training and its score.

    Args:
        part: "selection" or "test": the items that are scored.
        rank, layers, positions, share: see `Shape`.
        writes: whether answers are generated also where the score is a loss.
    """

    benchmark: str
    method: str
    lr: float
    seed: int
    part: str = "test"
    rank: int = 4
    layers: str = "all"
    positions: str = "f5+l5"
    share: str = "positions"
    writes: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(self.rank, self.layers, self.positions, self.share)


@dataclass(frozen=True)
class Bench:
    """What all cells of an experiment have in common: the base model, the data, and how long is trained.

    Args:
        model, tokenizer: a causal language model; it is left as it was found.
        data: the folder that holds a folder for each benchmark.
        epochs, batch_size, warmup: of every training; warmup is a share of the steps.
        limit, test_limit: how many records are trained on and scored.

    Raises:
        DataError: no such benchmark, method or file.
    """

    model: Any
    tokenizer: Any
    data: Path
    epochs: int = 1
    batch_size: int = 16
    warmup: float = 0.1
    limit: int = 256
    test_limit: int = 100
    _parts: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def parts(self, benchmark: str) -> dict[str, list[Item]]:
        """The items to train on, select with and score."""
        return self._read(benchmark)[0]

    def source(self, benchmark: str) -> str:
        """Where the items come from, in words."""
        return self._read(benchmark)[1]

    def _read(self, name: str) -> Any:
        if name not in BENCHMARKS:
            raise DataError(f"There is no benchmark {name!r}. {nearest(name, BENCHMARKS)}")
        if name not in self._parts:
            self._parts[name] = BENCHMARKS[name].parts(self.data, self.limit, self.test_limit)
        return self._parts[name]

    def run(self, cells: Iterable[FinetuningCell], store: Store, name: str) -> dict[FinetuningCell, Result]:
        """The results of the cells, those that the store lacks computed."""
        return run(cells, self.compute, store, name=name)

    def store(self, folder: Path, benchmarks: Sequence[str]) -> Store:
        """The folder of the experiment, with the digest of all that determines its numbers."""
        items = {
            name: digest_of([list(vars(item).values()) for part in self.parts(name).values() for item in part])
            for name in benchmarks
        }
        settings = {name: getattr(self, name) for name in ("epochs", "batch_size", "warmup", "limit", "test_limit")}
        identity = identity_of(self.model, self.tokenizer)
        return Store.claim(folder, {"what": "finetuning", **identity, "items": items, "settings": settings})

    def compute(self, cell: FinetuningCell) -> Result:
        """Train and score one cell.

        Raises:
            DataError: no such method; BitFit of a model without biases.
        """
        if cell.method not in METHODS:
            raise DataError(f"There is no method {cell.method!r}. {nearest(cell.method, METHODS)}")
        module = METHODS[cell.method].build(self.model, self.tokenizer, cell.shape, cell.seed)
        trainable = [p for p in _trained(module) if p.requires_grad]
        meter, items = _Meter(), self.parts(cell.benchmark)["train"]
        with self.trainer(module, items, meter, learning_rate=cell.lr, seed=cell.seed) as trainer:
            trainer.train()
        count = sum(p.numel() for p in trainable)
        facts = {
            "trainable": count,
            "share_trained": count / sum(p.numel() for p in self.model.parameters()),
            "saved_bytes": sum(p.numel() * p.element_size() for p in trainable),
            "step_flops": meter.counter.get_total_flops(),
        }
        return Result(facts={**facts, **self.score(module, cell.benchmark, cell.part, cell.writes)})

    def score(self, module: nn.Module, benchmark: str, part: str = "test", writes: bool = False) -> dict[str, Any]:
        """The mean score of a module, that of each item, and the texts that it writes."""
        chosen, items = BENCHMARKS[benchmark], self.parts(benchmark)[part]
        reft, texts = self.intervened(module).eval(), []
        if writes or chosen.metric == ACCURACY:
            prompts = [item.prompt for item in items]
            texts = cr.generate_texts(reft, prompts, SCORED_TOGETHER, max_new_tokens=chosen.new_tokens)
        if chosen.metric == ACCURACY:
            each = [float(chosen.is_right(text, item)) for text, item in zip(texts, items, strict=True)]
        else:
            each = completion_losses(reft, self.records(items), self.batch_size)
        return {"metric": chosen.metric, "score": statistics.fmean(each), "items": each, "texts": texts}

    def records(self, items: Sequence[Item]) -> list[Any]:
        """Items as training records."""
        pairs = [(item.prompt, item.completion) for item in items]
        return cr.completions(pairs, self.tokenizer, model=self.model)

    def intervened(self, module: nn.Module) -> cr.IntervenedModel:
        """The module as it is, or a model without interventions around it."""
        if isinstance(module, cr.IntervenedModel):
            return module
        return cr.IntervenedModel(module, cr.InterventionGraph(), self.tokenizer)

    def batch(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Items as one padded batch, where the model computes."""
        made = cr.ReftCollator(pad_token_id(self.tokenizer))(self.records(items))
        return {key: value.to(self.model.device) for key, value in made.items()}

    @contextmanager
    def trainer(
        self, module: nn.Module, items: Sequence[Item], callback: TrainerCallback, **options: Any
    ) -> Iterator[Trainer]:
        """A trainer of a module on items, `ReftTrainer` where it has interventions; `options`: training arguments."""
        records = self.records(items)
        with tempfile.TemporaryDirectory() as scratch:
            args = TrainingArguments(
                scratch, num_train_epochs=self.epochs, per_device_train_batch_size=self.batch_size,
                warmup_steps=self.warmup, save_strategy="no", logging_strategy="no", report_to="none",
                disable_tqdm=True, use_cpu=self.model.device.type == "cpu", remove_unused_columns=False,
                weight_decay=0.0, train_sampling_strategy="group_by_length", **options,
            )  # fmt: skip
            made: dict[str, Any] = {"model": module, "args": args, "callbacks": [callback]}
            if isinstance(module, cr.IntervenedModel):
                yield cr.ReftTrainer(**made, train_dataset=records)
            else:
                made["train_dataset"] = [{key: entry[key] for key in ("input_ids", "labels")} for entry in records]
                yield Trainer(**made, data_collator=cr.ReftCollator(pad_token_id(self.tokenizer)))


class _Meter(TrainerCallback):
    """Counts the FLOPs of the last step, and moves the bar."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps - 1:
            self.counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            self.counter.__exit__(None, None, None)
        tick(state.global_step / state.max_steps)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return list(module.trainable_parameters() if isinstance(module, cr.IntervenedModel) else module.parameters())
