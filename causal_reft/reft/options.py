"""What a `ReftTrainer` is given, checked; which parameters of the base model it trains; blocks that are recomputed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from causal_reft.errors import DataError, nearest
from causal_reft.execution import IntervenedModel
from causal_reft.sites import unwrapped

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
RECIPE = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "seed",
    "bf16",
)


def check_options(model: Any, args: TrainingArguments, options: Mapping[str, Any]) -> None:
    """
    Raises:
        DataError: another kind of model; an option that a model under a graph cannot take.
    """
    if not isinstance(model, IntervenedModel):
        raise DataError(
            f"ReftTrainer trains an IntervenedModel, not a {type(model).__name__}. Write IntervenedModel(model, graph, "
            "tokenizer)."
        )
    if "tokenizer" in options:
        raise DataError(
            "ReftTrainer(tokenizer=...) does not exist in transformers 5. Write processing_class=tokenizer, or give "
            "the tokenizer to the model: IntervenedModel(model, graph, tokenizer)."
        )
    known = inspect.signature(Trainer.__init__).parameters
    for name in options:
        if name not in known:
            raise DataError(f"ReftTrainer has no option {name!r}. {nearest(name, known)}")
    if args.neftune_noise_alpha is not None:
        raise DataError(
            "neftune_noise_alpha adds noise to the embeddings of a model in training mode, but ReftTrainer keeps the "
            "base model frozen and in evaluation mode. Leave it out; dropout on an edit is Interchange(dropout=...)."
        )


def trained_base(model: IntervenedModel, asked: bool | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the base model's parameters that are trained.

    Raises:
        DataError: a module that the base model does not have.
    """
    base = model.base_model
    if asked is None and type(unwrapped(base)).__name__.endswith(
        ("ForSequenceClassification", "ForTokenClassification")
    ):
        inner = getattr(unwrapped(base), "base_model_prefix", "")
        return tuple(name for name, _ in base.named_parameters() if inner not in name.split("."))
    if asked is None or asked is False:
        return ()
    if asked is True:
        return tuple(name for name, p in base.named_parameters() if p.requires_grad)
    modules = dict(base.named_modules())
    for name in asked:
        if name not in modules:
            raise DataError(
                f"train_base={list(asked)}: the base model has no module {name!r}. {nearest(name, modules)}"
            )
    return tuple(name for name, _ in base.named_parameters() if any(name.startswith(f"{module}.") for module in asked))


def sharded_parameters(model: IntervenedModel, trained: Sequence[str]) -> list[str]:
    """The names, within the intervened model, of the parameters that `fully_shard` spread over the processes.

    Raises:
        DataError: one of the base model's trained parameters is among them.
    """
    base = [name for name, p in model.base_model.named_parameters() if isinstance(p, DTensor)]
    if shared := set(base) & set(trained):
        raise DataError(
            f"train_base: {min(shared)} is sharded by fully_shard, and gradients of sharded parameters are not "
            "averaged here. Shard the blocks and not what is trained."
        )
    return [f"base_model.{name}" for name in base]


def last_complete_checkpoint(folder: str) -> str | None:
    """The newest checkpoint in a folder whose last file, the trainer's state, is whole; `None` where there is none."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((str(path) for path in found if _is_json(path / TRAINER_STATE_NAME)), None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def about_training(args: TrainingArguments, state: TrainerState, records: Any) -> dict[str, dict[str, Any]]:
    """What a model card says of a training: the recipe, the number of records, the last losses and metrics."""
    given = args.to_dict()
    recipe = {key: value if isinstance(value := given[key], (str, int, float)) else str(value) for key in RECIPE}
    last = {key: value for entry in state.log_history for key, value in entry.items() if isinstance(value, float)}
    measured = {key: f"{last[key]:.6g}" for key in last if "loss" in key or key.startswith("eval_")}
    metrics = {key: value for key, value in measured.items() if not key.endswith(("_runtime", "_per_second", "_time"))}
    data = {"records": len(records)} if hasattr(records, "__len__") else {}
    return {"recipe": recipe, "data": data, "metrics": {**metrics, "steps": str(state.global_step)}}


def recomputes(args: TrainingArguments) -> bool:
    """Whether the arguments ask for gradient checkpointing, by either of its names."""
    return any(getattr(args, name, None) for name in ("activation_checkpointing", "gradient_checkpointing"))


@contextmanager
def recomputing_blocks(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing runs in training mode only: blocks are in it, without their dropout."""
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    dropouts = [
        (block, name, value)
        for block in blocks
        for name, value in vars(block).items()
        if "drop" in name and isinstance(value, float)
    ]
    try:
        for block in blocks:
            block.training = True
        for block, name, _ in dropouts:
            setattr(block, name, 0.0)
        yield
    finally:
        for block in blocks:
            block.training = False
        for block, name, value in dropouts:
            setattr(block, name, value)
