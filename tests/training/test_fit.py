"""The training loop: finds what is there, accumulates exactly, repeats to the bit, stops well, leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.errors import DataError
from causal_reft.experiments.finetuning.step_cost import TensorBytes
from causal_reft.training import cross_entropy, fit_many, frozen, logit_difference, mean_loss
from tests.models import D_MODEL as D
from tests.models import ToyMLP, gpt2, prompts


def text_examples(n: int = 8, seed: int = 0) -> cr.Examples:
    """Ragged texts whose answers have one to three tokens."""
    lengths = [4 + i % 3 for i in range(n)]
    base = prompts(lengths, "right", seed)
    labels = torch.full_like(base["input_ids"], -100)
    for row, length in enumerate(lengths):
        answer = 1 + row % 3
        labels[row, length - answer : length] = base["input_ids"][row, length - answer : length]
    return cr.Examples({"base": base}, labels)


def reft(seed: int = 0, **options: Any) -> cr.IntervenedModel:
    return cr.IntervenedModel(
        gpt2(dtype=torch.float32), cr.loreft(cr.Site(1, positions="last"), D, 2, seed=seed, **options)
    )


def learned(model: cr.IntervenedModel) -> list[Tensor]:
    return [p.detach().clone() for p in model.graph.parameters()]


def full(model: cr.IntervenedModel, examples: cr.Examples, **settings: Any) -> cr.History:
    return cr.fit(model, examples, progress=False, passes=cr.FullPasses, **settings)


class Planted(nn.Module):
    """h = x Q with an orthogonal Q, label the sign of x's first coordinate: the planted direction is Q's first row."""

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.rotate, self.read = nn.Linear(d, d, bias=False), nn.Linear(d, 2, bias=False)
        q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)))[0]
        self.rotate.weight.data, self.direction = q.T.contiguous(), q[0]
        self.read.weight.data = 4 * torch.stack([-q[0], q[0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.rotate(x))


def test_fit_finds_a_planted_direction() -> None:
    model, generator = Planted(), torch.Generator().manual_seed(0)
    base, source = (torch.randn(400, 8, generator=generator) for _ in range(2))
    examples = cr.Examples({"base": base, "source": source}, (source[:, 0] > 0).long())
    das = cr.IntervenedModel(model, cr.das(cr.Site.at("rotate"), 8, 1, seed=3))
    start = cr.principal_angles(das.graph["edit"].featurizer.rotation, model.direction[None])
    history = full(das, examples, epochs=40, batch_size=100, lr=5e-2)
    angle = cr.principal_angles(das.graph["edit"].featurizer.rotation, model.direction[None])
    assert start > 30 and angle < 5
    assert history.final_loss < 0.3 * history.steps[0]["loss"] and history.stopped == "finished"


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_are_the_big_batch_also_when_answers_differ_in_length(accumulate: int) -> None:
    results = []
    for size, count in ((8, 1), (8 // accumulate, accumulate)):
        model = cr.IntervenedModel(gpt2(), reft().graph)
        model.graph.modules.double()
        history = full(model, text_examples(), epochs=3, batch_size=size, accumulate=count, lr=1e-2, warmup=0.0)
        results.append((learned(model), [step["loss"] for step in history.steps]))
    (one, losses_one), (two, losses_two) = results
    assert len(losses_one) == 3
    torch.testing.assert_close(torch.tensor(losses_one), torch.tensor(losses_two), rtol=1e-10, atol=0)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_the_loss_of_a_step_is_the_mean_over_its_reads() -> None:
    model, examples = reft(init="random"), text_examples()
    passes = cr.FullPasses(model, examples)
    scored = passes.scored(torch.arange(8))
    expected = nn.functional.cross_entropy(scored.logits, scored.targets).item()
    assert len(scored.targets) == sum(1 + row % 3 for row in range(8)) == examples.n_reads(torch.arange(8))
    history = full(model, examples, batch_size=8, lr=0.0)
    assert history.steps[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert mean_loss(passes, examples, cross_entropy, 3) == pytest.approx(expected, rel=1e-5)


def test_the_same_seeds_repeat_to_the_bit_and_others_do_not() -> None:
    runs = {}
    for name, init, order in (("a", 0, 0), ("b", 0, 0), ("init", 1, 0), ("order", 0, 1)):
        model = reft(seed=init)
        torch.manual_seed(hash(name) % 1000)
        full(model, text_examples(), epochs=2, batch_size=3, lr=1e-2, seed=order)
        runs[name] = learned(model)
    assert all(map(torch.equal, runs["a"], runs["b"]))
    assert not all(map(torch.equal, runs["a"], runs["init"])) and not all(map(torch.equal, runs["a"], runs["order"]))


def test_gradients_left_over_from_elsewhere_change_nothing() -> None:
    clean, dirty = reft(), reft()
    for p in dirty.graph.parameters():
        p.grad = torch.full_like(p, 1e3)
    for model in (clean, dirty):
        full(model, text_examples(), max_steps=2, batch_size=4, lr=1e-2)
    assert all(map(torch.equal, learned(clean), learned(dirty)))
    assert all(p.grad is None for p in dirty.graph.parameters())


def test_early_stopping_keeps_the_best_epoch() -> None:
    """A learning rate that destroys: the validation loss rises, and what is kept has the lowest that was measured."""
    model, examples, held_out = reft(), text_examples(12), text_examples(6, seed=1)
    history = full(
        model, examples, validation=held_out, patience=2, epochs=30, batch_size=4, lr=0.3, schedule="constant"
    )
    measured = history.table["validation_loss"].dropna().tolist()
    assert history.stopped == "early" and len(measured) < 30 and measured.index(min(measured)) == len(measured) - 3
    kept = mean_loss(cr.FullPasses(model.eval(), held_out), held_out, cross_entropy, 32)
    assert kept == pytest.approx(min(measured), rel=1e-5)


def interrupting(after: int) -> Callable[[Tensor, Tensor], Tensor]:
    calls: list[int] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return cross_entropy(logits, targets)

    return loss


def test_ctrl_c_keeps_what_was_learned(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted, whole = reft(), reft()
    settings = {"epochs": 5, "batch_size": 4, "lr": 1e-2, "schedule": "constant", "warmup": 0.0}
    history = full(interrupted, text_examples(), loss=interrupting(after=3), **settings)
    full(whole, text_examples(), max_steps=3, **settings)
    assert history.stopped == "interrupted" and len(history.steps) == 3
    assert "Interrupted after 3 steps" in capsys.readouterr().out
    assert all(map(torch.equal, learned(interrupted), learned(whole)))


def test_ctrl_c_with_patience_keeps_the_best_epoch_and_not_the_last() -> None:
    model, examples, held_out = reft(), text_examples(12), text_examples(6, seed=1)
    history = full(
        model, examples, loss=interrupting(after=50), validation=held_out, patience=20, epochs=30, batch_size=4, lr=1.0,
        schedule="constant",
    )  # fmt: skip
    measured = history.table["validation_loss"].dropna().tolist()
    assert history.stopped == "interrupted" and min(measured) < measured[-1]
    kept = mean_loss(cr.FullPasses(model.eval(), held_out), held_out, cross_entropy, 32)
    assert kept == pytest.approx(min(measured), rel=1e-5)


@pytest.mark.parametrize("ends", ["normally", "interrupted", "by an error"])
def test_the_base_model_is_left_as_it_was_found(ends: str) -> None:
    model = reft()
    base, calls = model.base_model, []
    base.train()
    base.transformer.h[0].eval()
    base.lm_head.weight.requires_grad_(False)
    base.transformer.h[1].register_forward_hook(lambda *_: calls.append(1))
    before = {name: (p.clone(), p.requires_grad) for name, p in base.named_parameters()}
    modes = [module.training for module in base.modules()]
    model.train(False)

    def failing(logits: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("mine")

    loss = {"normally": cross_entropy, "interrupted": interrupting(after=1), "by an error": failing}[ends]
    if ends == "by an error":
        with pytest.raises(RuntimeError, match="mine"):
            full(model, text_examples(), loss=loss)
    else:
        full(model, text_examples(), loss=loss, epochs=2, batch_size=4)
        assert len(calls) >= 2, "the user's own hook fires in every pass"
    for name, p in base.named_parameters():
        assert torch.equal(p, before[name][0]) and p.requires_grad == before[name][1] and p.grad is None
    assert [module.training for module in base.modules()] == modes
    assert not model.training and not model.interventions.training
    fired = len(calls)
    base(**prompts([3], "none"))
    assert len(calls) == fired + 1


def test_frozen_restores_after_an_exception() -> None:
    toy = ToyMLP()

    def failing() -> None:
        with frozen(toy):
            assert not toy.training and not any(p.requires_grad for p in toy.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert toy.training and all(p.requires_grad for p in toy.parameters())


def test_each_role_has_its_learning_rate() -> None:
    still, moving = reft(), reft()
    started = learned(still)
    full(still, text_examples(), epochs=2, lr={"featurizer": 0.0, "source": 1e-2})
    names = [name for name, _ in still.interventions.named_parameters()]
    for name, before, after in zip(names, started, learned(still), strict=True):
        assert torch.equal(before, after) == ("featurizer" in name)
    full(moving, text_examples(), epochs=2, lr=1e-2)
    assert not any(map(torch.equal, started, learned(moving)))


def test_masks_are_annealed_and_their_size_is_penalised() -> None:
    toy, x = ToyMLP(), torch.randn(20, 6, dtype=torch.float64)
    examples = cr.Examples({"base": x, "source": x.flip(0)}, toy(x.flip(0)).argmax(-1))
    sizes = []
    for penalty in (0.0, 5.0):
        model = cr.IntervenedModel(toy, cr.dbm(cr.Site.at("first"), cr.Identity(8)))
        history = full(model, examples, epochs=15, batch_size=10, lr=5e-2, penalty=penalty)
        temperatures = history.table["temperature"].tolist()
        assert temperatures[0] == 1.0 and temperatures[-1] == pytest.approx(0.01)
        ratios = [b / a for a, b in pairwise(temperatures)]
        assert max(ratios) - min(ratios) < 1e-9, "geometrically"
        sizes.append(float(model.graph["edit"].featurizer.penalty().detach()))
    assert sizes[1] < sizes[0] - 0.1


def test_schedules_warm_up_and_fall() -> None:
    rates = {}
    for schedule in ("constant", "constant_with_warmup", "linear", "cosine"):
        history = full(reft(), text_examples(), epochs=10, batch_size=4, lr=1.0, schedule=schedule, warmup=0.2)
        rates[schedule] = history.table["lr"].tolist()
    assert set(rates["constant"]) == {1.0}
    assert rates["linear"][:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0]) and rates["linear"][-1] == pytest.approx(
        1 / 16
    )
    assert rates["constant_with_warmup"][4:] == [1.0] * 16
    assert rates["cosine"][4] == 1.0 and rates["cosine"][-1] < 0.02


def test_clipping_bounds_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        norms.append(float(torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    for clip in (None, 1e-3):
        full(reft(init="random"), text_examples(), batch_size=8, clip=clip)
    assert norms[0] > 1e-2 and norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_max_steps_stops_without_validating_on(capsys: pytest.CaptureFixture[str]) -> None:
    history = full(reft(), text_examples(), epochs=50, batch_size=2, max_steps=5, validation=text_examples(3, seed=2))
    assert len(history.steps) == 5
    assert history.table["validation_loss"].notna().sum() == 2, "after the first epoch, and after the last step"


def test_the_plan_of_a_fit_gives_the_same_training_as_full_passes() -> None:
    results = []
    for options in ({"passes": cr.FullPasses}, {}):
        model = cr.IntervenedModel(gpt2(), reft(init="random").graph)
        model.graph.modules.double()
        cr.fit(model, text_examples(), epochs=2, batch_size=4, lr=1e-2, progress=False, **options)
        results.append(learned(model))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epoch": 3}, r"no setting 'epoch'\. Did you mean 'epochs'\?"),
        ({"lr": {"rotation": 1e-3}}, "must name exactly featurizer and source"),
        ({"patience": 2}, r"patience needs validation="),
        ({"batches": "by_length"}, r"batches='by_length' does not exist\. Did you mean 'by length'\?"),
        ({"schedule": "cosin"}, r"schedule='cosin' does not exist\. Did you mean 'cosine'\?"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        full(reft(), text_examples(), **settings)


def test_nothing_to_train_or_to_train_on_is_said() -> None:
    with pytest.raises(DataError, match=r"nothing to train.*Subspace, a Mask or a LearnedSource"):
        full(cr.IntervenedModel(gpt2(), cr.patch(cr.Site(1), D)), text_examples())
    with pytest.raises(DataError, match="no examples"):
        full(reft(), text_examples().rows(torch.tensor([], dtype=torch.long)))
    with pytest.raises(DataError, match="no graphs"):
        fit_many([], text_examples())


def test_history_tells_what_happened() -> None:
    empty, history = cr.History(), full(reft(), text_examples(), epochs=2, batch_size=4)
    assert repr(empty) == "History(no steps, finished)" and empty.final_loss != empty.final_loss
    assert repr(history).startswith("History(4 steps, finished, loss ")
    assert list(history.table.columns) == ["step", "epoch", "loss", "lr"] and history.table["epoch"].tolist() == [
        0,
        0,
        1,
        1,
    ]
    assert (
        history.settings["rows"] == 8 and history.settings["seed"] == 0 and history.settings["loss"] == "cross_entropy"
    )


def test_losses() -> None:
    logits, targets = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    assert torch.equal(logit_difference(logits, targets), torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(cross_entropy(logits, targets), -logits.log_softmax(-1)[[0, 1], targets])
    assert (
        cross_entropy(logits.bfloat16(), targets).dtype
        == torch.float32
        == logit_difference(logits.half(), targets).dtype
    )


def test_many_graphs_hold_the_activations_of_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are taken forward by forward, so memory does not grow with the number of graphs."""
    monkeypatch.setattr("causal_reft.execution.planning.joint_passes.TOKENS_AT_ONCE", 64)
    network, examples, peaks = gpt2(dtype=torch.float32), text_examples(), []
    for n in (8, 32):
        graphs = [cr.loreft(cr.Site(0, positions="first"), D, 2, seed=seed) for seed in range(n)]
        models = [cr.IntervenedModel(network, graph) for graph in graphs]
        with TensorBytes() as held:
            fit_many(models, examples, max_steps=2, batch_size=8, progress=False)
        peaks.append(held.peak)
    assert peaks[1] < 1.5 * peaks[0], peaks
