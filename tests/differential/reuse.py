"""A plan used again while the model, the graph and the data change, against plain hooks on the model as it is now."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import causal_reft as cr
from causal_reft.execution import Examples, plan
from tests.models import ARCHITECTURES, BLOCKS, D_MODEL, VOCABULARY, prompts

RUNS = ("base", "source", "other")
Runs = dict[str, dict[str, Tensor]]


class Scaling(nn.Module):
    """A layer whose output is scaled by a buffer and raised by an attribute."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.shift = layer, 0.0
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs) * self.scale + self.shift


class Scene:
    """A model of its own with adapters, two subspaces, and data of its own."""

    def __init__(self, draw: random.Random) -> None:
        self.family = draw.choice(sorted(ARCHITECTURES))
        self.base = copy.deepcopy(_with_adapters(self.family))
        self.layer, self.last = draw.choice([0, 1, 2]), draw.choice([1, 2])
        lengths = [draw.randint(2, 6) for _ in range(4)]
        self.runs: Runs = {run: prompts(lengths, "right", draw.randrange(1000)) for run in RUNS}
        self.labels = torch.tensor([draw.randrange(VOCABULARY) for _ in range(4)])
        self.upstream = cr.Subspace(D_MODEL, 3, seed=draw.randrange(99)).double().requires_grad_(False)
        self.R = cr.Subspace(D_MODEL, 2, seed=draw.randrange(99)).double()
        word = "last" if self.last == 1 else "l2"
        graph = cr.InterventionGraph(
            upstream=cr.Interchange(cr.Site(0, positions=word), self.upstream, cr.Collect("other"), run="source"),
            edit=cr.Interchange(cr.Site(self.layer, positions=word), self.R, cr.Collect("source")),
        )
        self.model = cr.IntervenedModel(self.base, graph)
        self.examples = Examples(self.runs, self.labels)
        self.plan = plan(self.model, self.examples, check=False)

    @property
    def blocks(self) -> Any:
        inside = self.base.get_base_model() if hasattr(self.base, "get_base_model") else self.base
        return inside.get_submodule(BLOCKS[self.family])

    @property
    def mlp(self) -> nn.Module:
        return self.blocks[0].mlp

    def scaling(self) -> Scaling:
        """The first MLP, wrapped by a module of the user's."""
        if not isinstance(self.mlp, Scaling):
            self.blocks[0].mlp = Scaling(self.mlp)
        return self.blocks[0].mlp

    def by_hand(self, rows: Tensor) -> Tensor:
        """The logits at the last token, run by run under a plain hook."""
        other = self._run("other", rows, 0, None)[0]
        _, upstream, _ = self._run("source", rows, 0, lambda h: interchanged(h, other, self.upstream), self.layer)
        return self._run("base", rows, self.layer, lambda h: interchanged(h, upstream, self.R))[2]

    def _run(
        self, run: str, rows: Tensor, at: int, edit: Any, collect: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States at the named tokens after the edit at `at` and at `collect`, and the logits of the last token."""
        batch = {key: value[rows] for key, value in self.runs[run].items()}
        ends, found = batch["attention_mask"].sum(1), {}
        cells = torch.arange(len(rows))[:, None], ends[:, None] + torch.arange(-self.last, 0)

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            h = (output[0] if isinstance(output, tuple) else output).clone()
            if edit is not None:
                h[cells] = edit(h[cells]).to(h.dtype)
            found["edited"] = h[cells]
            return (h, *output[1:]) if isinstance(output, tuple) else h

        def look(module: nn.Module, args: Any, output: Any) -> None:
            found["seen"] = (output[0] if isinstance(output, tuple) else output)[cells]

        handles = [self.blocks[at].register_forward_hook(hook)]
        handles += [] if collect is None else [self.blocks[collect].register_forward_hook(look)]
        logits = self.base(**batch).logits
        for handle in handles:
            handle.remove()
        return found["edited"], found.get("seen", found["edited"]), logits[torch.arange(len(rows)), ends - 1]


def interchanged(h: Tensor, source: Tensor, R: cr.Subspace) -> Tensor:
    """h + R^T (R s - R h)."""
    rows = R.rotation.double()
    return h + (source.double() @ rows.T - h.double() @ rows.T) @ rows


@cache
def _with_adapters(family: str) -> nn.Module:
    """A tiny model with adapters that act."""
    import peft

    model = ARCHITECTURES[family]().requires_grad_(False)
    names = {"gpt2": "c_attn", "llama": "q_proj", "neox": "query_key_value"}
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=2, target_modules=[names[family]], init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    return peft.get_peft_model(model, config).eval().double().requires_grad_(False)


def _written(scene: Scene) -> None:
    next(scene.mlp.parameters()).data.mul_(1.7)


def _one_number(scene: Scene) -> None:
    next(scene.mlp.parameters()).data.flatten()[3] += 50.0


def _data_replaced(scene: Scene) -> None:
    parameter = next(scene.mlp.parameters())
    parameter.data = parameter.data * 0.6


def _parameter_replaced(scene: Scene) -> None:
    module = next(m for m in scene.mlp.modules() if isinstance(getattr(m, "weight", None), nn.Parameter))
    module.weight = nn.Parameter(module.weight.data * 1.4, requires_grad=False)


def _adapters(scene: Scene) -> None:
    scene.base.disable_adapter_layers()


def _adapters_on(scene: Scene) -> None:
    scene.base.enable_adapter_layers()


def _adapter_weight(scene: Scene) -> None:
    next(p for name, p in scene.base.named_parameters() if "lora_B" in name).data.mul_(2.0)


def _hook(scene: Scene) -> None:
    scene.mlp.register_forward_hook(lambda module, args, output: output * 1.5)


def _hook_on_a_block(scene: Scene) -> None:
    scene.blocks[0].register_forward_pre_hook(lambda module, args: (args[0] * 1.2, *args[1:]))


def _hook_off(scene: Scene) -> None:
    scene.mlp._forward_hooks.clear()


def _buffer(scene: Scene) -> None:
    scene.scaling().scale.mul_(1.3)


def _buffer_replaced(scene: Scene) -> None:
    scene.scaling().scale = scene.scaling().scale * 0.7


def _attribute(scene: Scene) -> None:
    scene.scaling().shift += 0.5


def _forward(scene: Scene) -> None:
    own = scene.mlp.forward
    scene.mlp.forward = lambda *args, **kwargs: own(*args, **kwargs) * 0.8


def _module(scene: Scene) -> None:
    scene.blocks[0].mlp = copy.deepcopy(scene.mlp)
    next(scene.mlp.parameters()).data.mul_(0.4)


def _frozen_subspace(scene: Scene) -> None:
    for parameter in scene.upstream.parameters():
        parameter.data = parameter.data.flip(-1).contiguous()


def _trained_subspace(scene: Scene) -> None:
    for parameter in scene.R.parameters():
        parameter.data = parameter.data.flip(-1).contiguous()


def _ids(run: str) -> Callable[[Scene], None]:
    def changed(scene: Scene) -> None:
        ids, mask = scene.runs[run]["input_ids"], scene.runs[run]["attention_mask"]
        ids.copy_(torch.where(mask == 1, 3 + (ids + 1) % (VOCABULARY - 3), ids))

    changed.__name__ = f"_{run}_ids"
    return changed


def _labels(scene: Scene) -> None:
    scene.labels.copy_(scene.labels.flip(0))


def _thawed(scene: Scene) -> None:
    scene.upstream.requires_grad_(True)


def _frozen(scene: Scene) -> None:
    scene.upstream.requires_grad_(False)


CHANGES: tuple[Callable[[Scene], None], ...] = (
    _written, _one_number, _data_replaced, _parameter_replaced, _adapters, _adapters_on, _adapter_weight, _hook,
    _hook_on_a_block, _hook_off, _buffer, _buffer_replaced, _attribute, _forward, _module, _frozen_subspace,
    _trained_subspace, *map(_ids, RUNS), _labels, _thawed, _frozen,
)  # fmt: skip


def reuse_after_changes(draw: random.Random) -> str:
    """The same logits and labels before and after each of a few changes, inside of a loop or not."""
    scene, done = Scene(draw), []
    for turn in range(draw.randint(2, 5)):
        if turn:
            done.append(draw.choice(CHANGES))
            done[-1](scene)
        with scene.plan if draw.random() < 0.5 else nullcontext():
            for _ in range(draw.randint(1, 2)):
                rows = torch.tensor(draw.sample(range(4), draw.randint(1, 4)))
                mine = scene.plan.scored(rows)
                said = f"{scene.family} layer {scene.layer} after {[change.__name__ for change in done]}"
                torch.testing.assert_close(mine.logits, scene.by_hand(rows), rtol=1e-9, atol=1e-9, msg=said)
                assert torch.equal(mine.targets, scene.labels[rows]), said
    return "equal"
