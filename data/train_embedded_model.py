"""Train the embedded model: a small decoder LM on the project's own bilingual corpus, reproducible from seeds.

Two stages share one learning-rate schedule. In the first every token counts. In the second the marker turns, which
only set a document's mode, carry no loss: text without a marker then keeps exactly the small share of German and of
answers that unmarked documents have, instead of the large share that beginnings of marked ones would add.

Two things make the model bear edits. Strong weight decay: without it some tasks are learned by heart. And noise on
the residual stream while training: a model that holds its course under noise holds its content under an edit too, and
what still moves it is the mode itself.

    python data/train_embedded_model.py            # writes data/embedded/
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import torch
from card import write_card
from corpus.documents import Document, Mixture, corpus_hash, write_documents
from corpus.splits import split_records
from tokenizer import build_tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from write_exercises import EMBEDDED, write_exercises

CONTEXT = 256
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model."""

    documents: int = 80_000
    held_out: int = 1_000
    seed: int = 1
    stages: tuple[int, int] = (2_200, 900)
    batch: int = 56
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.3
    noise: float = 0.1  # behind every block but the last, relative to the state's length
    d_model: int = 160
    n_layers: int = 4
    n_heads: int = 4
    mixture: Mixture = field(default_factory=Mixture)

    @property
    def steps(self) -> int:
        return sum(self.stages)

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return min(step / self.warmup, 0.05 + 0.475 * (1 + math.cos(math.pi * max(progress, 0.0))))


@dataclass(frozen=True)
class Encoded:
    """A document's tokens, and how many of them belong to its marker."""

    ids: list[int]
    marker: int


def encode(documents: list[Document], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    texts = tokenizer([d.text + tokenizer.eos_token for d in documents])["input_ids"]
    heads = tokenizer(["".join(line + "\n" for line in d.lines[: d.marker_lines]) for d in documents])["input_ids"]
    return [Encoded(ids, len(head)) for ids, head in zip(texts, heads, strict=True)]


def batches(corpus: list[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """Endless shuffled batches of documents of like length."""
    rng = Random(seed)
    while True:
        order = list(corpus)
        rng.shuffle(order)
        for start in range(0, len(order) - 32 * size + 1, 32 * size):
            pool = sorted(order[start : start + 32 * size], key=lambda d: len(d.ids))
            groups = [pool[i : i + size] for i in range(0, len(pool), size)]
            rng.shuffle(groups)
            yield from groups


def tensors(batch: list[Encoded], marker_counts: bool, pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded token ids and labels; a causal model needs no mask for padding on the right."""
    width = max(len(d.ids) for d in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), IGNORED)
    for row, document in enumerate(batch):
        n, first = len(document.ids), 1 if marker_counts else document.marker
        ids[row, :n] = torch.tensor(document.ids)
        labels[row, first:n] = ids[row, first:n]
    return ids, labels


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    set_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=recipe.d_model, intermediate_size=2 * recipe.d_model,
            num_hidden_layers=recipe.n_layers, num_attention_heads=recipe.n_heads,
            num_key_value_heads=recipe.n_heads, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, corpus: list[Encoded], pad: int) -> float:
    """Mean loss per token, markers not counted, over documents about held-out records."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(corpus), 100):
        ids, labels = tensors(corpus[start : start + 100], False, pad)
        n = int((labels[:, 1:] != IGNORED).sum())
        loss = model(input_ids=ids.to(model.device), labels=labels.to(model.device)).loss
        total, count = total + n * float(loss), count + n
    model.train()
    return total / count


@contextmanager
def noisy(model: LlamaForCausalLM, noise: float) -> Iterator[None]:
    """Gaussian noise is added to what every block but the last puts out."""

    def disturbed(_block: nn.Module, _inputs: object, state: Tensor) -> Tensor:
        length = state.detach().norm(dim=-1, keepdim=True) / state.shape[-1] ** 0.5
        return state + noise * length * torch.randn_like(state) if model.training else state

    hooks = [block.register_forward_hook(disturbed) for block in model.model.layers[:-1]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def train(recipe: Recipe, model: LlamaForCausalLM, corpus: list[Encoded], held_out: list[Encoded]) -> list[dict]:
    """Train in place; returns the training curve."""
    pad = int(model.config.pad_token_id)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    curve, recent, started = [], [], time.perf_counter()
    for step, batch in enumerate(islice(batches(corpus, recipe.batch, recipe.seed), recipe.steps), start=1):
        ids, labels = tensors(batch, step <= recipe.stages[0], pad)
        with noisy(model, recipe.noise):
            loss = model(input_ids=ids.to(model.device), labels=labels.to(model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        if step % 100 == 0:
            row = {"step": step, "stage": 1 + (step > recipe.stages[0]), "train_loss": sum(recent) / len(recent),
                   "held_out_loss": held_out_loss(model, held_out, pad)}  # fmt: skip
            curve.append(row)
            recent = []
            print(*(f"{k}={v:.4f}" if k.endswith("loss") else f"{k}={v}" for k, v in row.items()),
                  f"{time.perf_counter() - started:.0f}s", flush=True)  # fmt: skip
    return curve


def write_curve(curve: list[dict], folder: Path) -> None:
    with open(folder / "training_curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in curve)


def write_facts(recipe: Recipe, hash_of_corpus: str, minutes: float, where: str, folder: Path) -> None:
    """What the card says of the training that the weights cannot tell."""
    facts = {
        "corpus_hash": hash_of_corpus, "seed": recipe.seed, "documents": recipe.documents, "steps": recipe.steps,
        "first_stage": recipe.stages[0], "batch": recipe.batch, "leak": recipe.mixture.leak,
        "weight_decay": recipe.weight_decay, "noise": recipe.noise,
        "german_answers": recipe.mixture.german_answers, "minutes": round(minutes, 1), "where": where,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def make(recipe: Recipe, folder: Path, device: torch.device, where: str) -> None:
    """Corpus, tokenizer and model from the recipe; everything but the card goes into the folder."""
    splits = split_records()
    documents = list(write_documents(splits.train, recipe.documents, recipe.seed, recipe.mixture))
    unseen = list(write_documents(splits.test, recipe.held_out, recipe.seed + 1))
    print(f"{len(documents)} documents, corpus hash {corpus_hash(documents)}")
    tokenizer = build_tokenizer((d.text for d in documents), CONTEXT)
    model = new_model(recipe, tokenizer).to(device)
    print(f"{len(tokenizer)} tokens, {model.num_parameters()} parameters")
    started = time.perf_counter()
    curve = train(recipe, model, encode(documents, tokenizer), encode(unseen, tokenizer))
    minutes = (time.perf_counter() - started) / 60
    write_exercises(folder)
    tokenizer.save_pretrained(folder)
    model.cpu().save_pretrained(folder)
    write_curve(curve, folder)
    write_facts(recipe, corpus_hash(documents), minutes, where, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--width", type=int, default=Recipe.d_model)
    parser.add_argument("--without-german-answers", action="store_true", help="the harder corpus")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mixture = Mixture(german_answers=not args.without_german_answers)
    recipe = Recipe(seed=args.seed, d_model=args.width, mixture=mixture)
    where = f"{args.threads} thread(s) of a CPU" if args.device.type == "cpu" else torch.cuda.get_device_name()
    make(recipe, args.folder, args.device, where)
    write_card(args.folder)


if __name__ == "__main__":
    main()
