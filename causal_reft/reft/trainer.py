"""`transformers.Trainer` for a model under a graph: same arguments, same logs, a frozen base, small checkpoints.

    ReftTrainer(reft, args=TrainingArguments(...), train_dataset=completions(pairs, tokenizer)).train()

In supervised training of a causal language model the loss comes from a plan of the dataset: logits without a label,
blocks below the first edit and tokens before it take no part in a step, and what every epoch would compute again is
kept. The first step compares the plan with full passes and with the model's own loss, so it costs about three steps.

Records of `preferences` are compared in pairs, the same model without its edits being the reference.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.utils.generic import find_labels

from causal_reft.errors import CausalReftWarning, DataError
from causal_reft.execution import IntervenedModel, plan
from causal_reft.execution.block_shortcuts import replaced_forward
from causal_reft.execution.inputs import before_labels
from causal_reft.execution.storage import load_trained_base
from causal_reft.featurizers import Mask, noting, penalised, penalties
from causal_reft.graph import load_weights
from causal_reft.reft.context import check_context
from causal_reft.reft.data import ReftCollator
from causal_reft.reft.options import (
    about_training,
    check_options,
    last_complete_checkpoint,
    recomputes,
    recomputing_blocks,
    sharded_parameters,
    trained_base,
)
from causal_reft.reft.planned import MOST_TOKENS, PlannedDataset, as_examples, token_losses
from causal_reft.reft.preference import DPO, PreferenceLoss, is_preference, pair_losses
from causal_reft.sites import unwrapped
from causal_reft.texts import pad_token_id, token_batch
from causal_reft.training import frozen
from causal_reft.training.schedules import anneal

logger = logging.getLogger(__name__)


class ReftTrainer(Trainer):
    """Trains the graph's parameters on records of `completions` (or on any batches that the model's forward takes).

    Args:
        model: the `IntervenedModel`; or `None` with `model_init=`, a function that returns one.
        args: as for `Trainer`; a copy is used, with `remove_unused_columns` off, because the columns are ours.
        train_dataset, eval_dataset: records; anything that `Trainer` takes.
        train_base: what else is trained, in the base model: names of modules (`["score"]`), or True for every
            parameter that asks for gradients (LoRA, say). By default the head of a classification model, which starts
            from random numbers, and nothing of any other. What is trained is saved beside the graph; the rest of the
            base is frozen for the time of training and left as it was found.
        memory: bytes that the plan of a dataset may keep from step to step.
        preference: the loss of records of `preferences`, `DPO(beta)` or `RePS()`.
        penalty: the weight of the terms that parts of the graph add to the loss in training, as `Recipe.penalty`; the
            logged `loss` holds them, `eval_loss` does not.
        options: further arguments of `Trainer`.

    Attributes:
        why_full: why steps are computed in full, in words; empty where the plan is used.

    Raises:
        DataError: nothing to train; edits that cannot change what the loss reads; records without a collator and
            without a tokenizer to pad, or beyond the context; options that cannot work with a frozen base.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        train_base: bool | Sequence[str] | None = None,
        memory: int = 2 << 30,
        preference: PreferenceLoss = DPO(),  # noqa: B008 - frozen
        penalty: float = 0.0,
        **options: Any,
    ) -> None:
        args = copy.copy(TrainingArguments("tmp_trainer") if args is None else args)
        made = options["model_init"]() if model is None and options.get("model_init") is not None else model
        check_options(made, args, options)
        assert isinstance(made, IntervenedModel)
        base = unwrapped(made.base_model)
        self.trained_base = trained_base(made, train_base)
        if not self.trained_base and not list(made.trainable_parameters()):
            raise DataError("The graph has nothing to train. Give it a LearnedSource, a Subspace or a Mask.")
        self._sharded = sharded_parameters(made, self.trained_base)
        setattr(made, "_ddp_params_and_buffers_to_ignore", self._sharded)  # noqa: B010 - torch reads it, no stub has it
        args.remove_unused_columns = False
        args.label_names = find_labels(type(base)) if args.label_names is None else args.label_names
        options.setdefault("processing_class", made.tokenizer)
        if options.get("data_collator") is None:
            options["data_collator"] = ReftCollator(_pad(options["processing_class"]))
        for records in (train_dataset, eval_dataset):
            if isinstance(records, list | tuple):
                sides = [side for entry in records for side in (entry.values() if is_preference(entry) else (entry,))]
                check_context([dict(side).get("input_ids", ()) for side in sides], base)
        self.preference, self.penalty = preference, penalty
        self.memory, self.why_full, self._differs, self._checked = memory, "", "", False
        self._plans: dict[int, PlannedDataset] = {}
        self._loops: ExitStack | None = None
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **options)
        if self.args.fsdp and not (self.is_fsdp_enabled or self.is_fsdp_xla_enabled):
            raise DataError(
                "TrainingArguments(fsdp=...): accelerate does not shard on this device, so each process would hold the "
                "whole model. Shard the base model before it is wrapped: torch.distributed.fsdp.fully_shard(block) for "
                "its blocks, and leave fsdp out."
            )
        loss = LOSS_MAPPING.get(str(getattr(base, "loss_type", None)))
        self._loss_shifts_labels = loss is ForCausalLMLoss and not getattr(base.config, "is_encoder_decoder", False)
        if self.label_smoother is not None:
            self.label_smoother = partial(self.label_smoother, shift_labels=self._loss_shifts_labels)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """As `Trainer.train`, with the base model frozen around it. `resume_from_checkpoint=True` goes on from the last
        checkpoint that was written to its end.

        Raises:
            DataError: no edit of the graph can change what the loss reads.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir)) or True
        with self._prepared():
            return super().train(resume_from_checkpoint, *args, **options)

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """As `Trainer.evaluation_loop`, with the base model's dropout off."""
        with frozen(self._intervened.base_model), self._planning():
            return super().evaluation_loop(*args, **options)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's own loss, by a plan of the dataset where one can give it; in training with the weighted penalty
        of the graph's parts."""
        parts = self._intervened.interventions
        if not self._intervened.training or not penalised(parts):
            return self._loss_of_labels(model, inputs, return_outputs, num_items_in_batch)
        masks = [module for module in parts.modules() if isinstance(module, Mask)]
        anneal(masks, self.state.global_step / max(self.state.max_steps - 1, 1))
        with noting():
            found = self._loss_of_labels(model, inputs, return_outputs, num_items_in_batch)
            loss = found[0] if return_outputs else found
            added = self.penalty * penalties(parts, loss)
        if (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None:
            added = added / self.current_gradient_accumulation_steps  # `Trainer` divides all other losses itself
        return (loss + added, found[1]) if return_outputs else loss + added

    def _loss_of_labels(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> Any:
        """What the labels, or the preferences, of a batch give."""
        inputs = self._with_prompt_lengths(inputs)
        why = "" if return_outputs else self._why_full(inputs)
        if not (return_outputs or why) and not self._checked:
            self._compare(model, inputs)
            why = self._differs
        if why and why != self.why_full:
            logger.warning("Steps are computed in full: %s.", why)
        self.why_full = self.why_full if return_outputs else why
        if is_preference(inputs):
            return self._preference_losses(model, inputs).mean()
        if return_outputs or why:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses = self._planned_losses(model, inputs)
        if not self.model_accepts_loss_kwargs or num_items_in_batch is None:
            return losses.mean()
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return losses.sum() / num_items_in_batch * scale

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """Logits, or with `predict_with_generate` in the arguments the tokens that the model generates; loss beside. Of
        preferences the loss only."""
        if is_preference(inputs):
            with torch.no_grad():
                return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None
        if prediction_loss_only or not getattr(self.args, "predict_with_generate", False):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        loss, _, labels = super().prediction_step(model, dict(inputs), True, ignore_keys)
        tokens = self._generated(self._prepare_inputs(inputs))
        return loss, tokens, inputs["labels"] if labels is None else labels

    # How a step is computed --------------------------------------------------------------------------------------

    def _why_full(self, inputs: Mapping[str, Any]) -> str:
        """Why a plan cannot give the loss of this batch; empty where it can."""
        intervened = self._intervened
        reasons = {
            "preferences are compared in pairs": is_preference(inputs),
            "parts of the base model are trained": bool(self.trained_base),
            "compute_loss_func is the caller's": self.compute_loss_func is not None,
            "gradient checkpointing recomputes blocks": recomputes(self.args),
            "parameters are sharded": bool(self._sharded) or self.is_fsdp_enabled or self.is_deepspeed_enabled,
            "several devices share one process": self.args.n_gpu > 1,
            "the base model is in training mode": intervened.base_model.training,
            "the loss is not that of a causal language model": not self._loss_shifts_labels,
            "the batch is not input_ids, attention_mask and token labels": as_examples(inputs) is None,
            self._differs: bool(self._differs),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _planned_losses(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """One loss for each labelled token. The plan runs inside the wrapped model's own call, which several processes
        need to average gradients."""
        intervened = self._intervened

        own = intervened.forward

        def losses() -> torch.Tensor:
            with replaced_forward(intervened, own), self.accelerator.autocast():
                found = self._plan_of(intervened.training).target_logits(inputs)
            return token_losses(found.logits, found.targets, self.args.label_smoothing_factor)

        with replaced_forward(intervened, losses):
            return model()

    def _preference_losses(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """One loss for each pair.

        Raises:
            DataError: the model is no causal language model.
        """
        if not self._loss_shifts_labels:
            raise DataError("Preferences are compared by a causal language model's tokens, and this model is another.")
        batch = {side: self._with_prompt_lengths(dict(inputs[side])) for side in inputs}
        with self.accelerator.autocast():
            return pair_losses(model, self._intervened, batch, self.preference)

    def _plan_of(self, training: bool) -> PlannedDataset:
        """The plan of the dataset that is trained on or evaluated, made once for a training or an evaluation."""
        records = self.train_dataset if training else self.eval_dataset
        if id(records) in self._plans:
            return self._plans[id(records)]
        planned = PlannedDataset(self._intervened, self._as_one_batch(records), self.memory)
        if self._loops is not None:
            self._plans[id(records)] = self._loops.enter_context(planned)
        return planned

    @contextmanager
    def _planning(self) -> Iterator[None]:
        """Plans that are made inside cache what later batches use, until the outermost of these ends."""
        if self._loops is not None:
            yield
            return
        try:
            with ExitStack() as self._loops:
                yield
        finally:
            self._plans, self._loops = {}, None

    def _as_one_batch(self, records: Any) -> dict[str, Any] | None:
        """All records, padded together; `None` where they are not ours, not countable, or too many."""
        if not isinstance(self.data_collator, ReftCollator) or isinstance(records, Mapping):
            return None
        if not hasattr(records, "__len__") or not len(records):
            return None
        rows = [records[number] for number in range(len(records))]
        width = max(len(row["input_ids"]) for row in rows)
        return None if len(rows) * width > MOST_TOKENS else dict(self.data_collator(rows))

    def _compare(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        """On the first batch: whether the model's own loss is the mean that a plan gives (a mixture of experts, say,
        may add a term)."""
        self._checked, intervened = True, self._intervened
        mode = intervened.training
        intervened.train(False)
        with torch.no_grad(), self.accelerator.autocast():
            given: Any = super().compute_loss(intervened, dict(inputs))
            found = PlannedDataset(intervened, None, self.memory).target_logits(inputs, check=False)
        intervened.train(mode)
        own = float(given)
        planned = float(token_losses(found.logits, found.targets, self.args.label_smoothing_factor).mean())
        bound = 1e-3 if self.accelerator.mixed_precision == "no" and found.logits.dtype.itemsize >= 4 else 2e-2
        if abs(own - planned) > bound * max(abs(own), 1e-3):
            self._differs = f"the model's own loss is {own:.6g}, the mean over labelled tokens {planned:.6g}"
            warnings.warn(
                f"{self._differs[0].upper()}{self._differs[1:]}: every batch is computed in full, by the model's own "
                "loss.",
                CausalReftWarning,
                stacklevel=2,
            )

    def _with_prompt_lengths(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Where prompts end, read from the labels before the label smoother takes them away."""
        labels, mask = inputs.get("labels"), inputs.get("attention_mask")
        if not self._loss_shifts_labels or labels is None or mask is None or "prompt_lengths" in inputs:
            return inputs
        return inputs if labels.shape != mask.shape else {**inputs, "prompt_lengths": before_labels(labels, mask)}

    def _generated(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The new tokens for the prompts of a batch, padded on the right."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"] != 0
        lengths = self._with_prompt_lengths(dict(inputs))["prompt_lengths"]
        prompts = [row[real][: int(n)].tolist() for row, real, n in zip(ids, mask, lengths, strict=True)]
        pad = pad_token_id(self.processing_class)
        batch = {key: value.to(ids.device) for key, value in token_batch(prompts, pad, side="left").items()}
        options: dict[str, Any] = {"do_sample": False, "pad_token_id": pad}
        for option, name in (("max_new_tokens", "generation_max_length"), ("num_beams", "generation_num_beams")):
            if (value := getattr(self.args, name, None)) is not None:
                options[option] = value
        out = self._intervened.generate(batch, **options)
        return out[:, batch["input_ids"].shape[1] :]

    # What is trained and saved -----------------------------------------------------------------------------------

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Everything of the base is frozen but what is trained; edits without any effect are refused."""
        intervened = self._intervened
        self._refuse_ineffective()
        self._checked, self._differs = False, ""
        with frozen(intervened.base_model), self._planning():
            named = dict(intervened.base_model.named_parameters())
            for name in self.trained_base:
                named[name].requires_grad_(True)
            if self.trained_base:
                intervened.trained_base = self.trained_base
            with recomputing_blocks(intervened.base_model) if recomputes(self.args) else nullcontext():
                yield

    def _refuse_ineffective(self) -> None:
        """
        Raises:
            DataError: edits all of which cannot change what the labels of the first records read.
        """
        records: Any = self.train_dataset
        if not self._loss_shifts_labels or self.trained_base or not isinstance(self.data_collator, ReftCollator):
            return
        if not hasattr(records, "__len__") or not len(records):
            return
        batch = self.data_collator([records[number] for number in range(min(len(records), 64))])
        examples = as_examples(batch["chosen"] if is_preference(batch) else batch)
        found = {} if examples is None else plan(self._intervened, examples).ineffective
        if found and set(found) >= set(self._intervened.graph.edits):
            name, reason = next(iter(found.items()))
            raise DataError(
                f"Node {name!r} cannot be trained: {reason}, so its gradient is exactly zero. Name a position "
                "that the loss reads ('last'), or an earlier layer."
            )

    @property
    def _intervened(self) -> IntervenedModel:
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, IntervenedModel)
        return model

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """The graph and what was trained of the base, never the frozen weights."""
        folder = output_dir or self.args.output_dir
        assert folder is not None
        self._intervened.about.update(about_training(self.args, self.state, self.train_dataset))
        self._intervened.save_pretrained(folder, overwrite=True)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self._intervened.graph, resume_from_checkpoint)
        load_trained_base(self._intervened.base_model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def _pad(tokenizer: Any) -> int:
    if tokenizer is None:
        raise DataError(
            "Records are padded with the tokenizer's pad token: give IntervenedModel(..., tokenizer) or "
            "data_collator=..."
        )
    return pad_token_id(tokenizer)
