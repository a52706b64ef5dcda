"""Train the embedded model: a small decoder LM on the project's own bilingual corpus, reproducible from seeds.

Two stages share one learning-rate schedule. In the first every token counts. In the second the marker turns, which
only set a document's mode, carry no loss: text without a marker then keeps exactly the small share of German and of
answers that unmarked documents have, instead of the large share that beginnings of marked ones would add.

    python data/train_embedded_model.py            # writes data/embedded/
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import torch
from card import write_card
from corpus.documents import Document, Mixture, corpus_hash, write_documents
from corpus.splits import split_records
from tokenizer import build_tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from write_exercises import EMBEDDED, write_exercises

CONTEXT = 256
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model."""

    documents: int = 80_000
    held_out: int = 1_000
    seed: int = 0
    stages: tuple[int, int] = (2_200, 900)
    batch: int = 56
    learning_rate: float = 3e-3
    warmup: int = 100
    d_model: int = 128
    d_mlp: int = 256
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
            vocab_size=len(tokenizer), hidden_size=recipe.d_model, intermediate_size=recipe.d_mlp,
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
        total, count = total + n * float(model(input_ids=ids, labels=labels).loss), count + n
    model.train()
    return total / count


def train(recipe: Recipe, model: LlamaForCausalLM, corpus: list[Encoded], held_out: list[Encoded]) -> list[dict]:
    """Train in place; returns the training curve."""
    pad = int(model.config.pad_token_id)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    curve, recent, started = [], [], time.perf_counter()
    for step, batch in enumerate(islice(batches(corpus, recipe.batch, recipe.seed), recipe.steps), start=1):
        ids, labels = tensors(batch, step <= recipe.stages[0], pad)
        loss = model(input_ids=ids, labels=labels).loss
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


def write_facts(recipe: Recipe, hash_of_corpus: str, minutes: float, threads: int, folder: Path) -> None:
    """What the card says of the training that the weights cannot tell."""
    facts = {
        "corpus_hash": hash_of_corpus, "seed": recipe.seed, "documents": recipe.documents, "steps": recipe.steps,
        "first_stage": recipe.stages[0], "batch": recipe.batch, "leak": recipe.mixture.leak,
        "german_answers": recipe.mixture.german_answers, "minutes": round(minutes, 1), "threads": threads,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=EMBEDDED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-german-answers", action="store_true", help="the harder corpus")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(seed=args.seed, mixture=Mixture(german_answers=not args.without_german_answers))
    splits = split_records()
    documents = list(write_documents(splits.train, recipe.documents, recipe.seed, recipe.mixture))
    unseen = list(write_documents(splits.test, recipe.held_out, recipe.seed + 1))
    print(f"{len(documents)} documents, corpus hash {corpus_hash(documents)}")
    tokenizer = build_tokenizer((d.text for d in documents), CONTEXT)
    model = new_model(recipe, tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters()} parameters")
    started = time.perf_counter()
    curve = train(recipe, model, encode(documents, tokenizer), encode(unseen, tokenizer))
    minutes = (time.perf_counter() - started) / 60
    write_exercises(args.folder)
    tokenizer.save_pretrained(args.folder)
    model.save_pretrained(args.folder)
    write_curve(curve, args.folder)
    write_facts(recipe, corpus_hash(documents), minutes, args.threads, args.folder)
    write_card(args.folder)


if __name__ == "__main__":
    main()
