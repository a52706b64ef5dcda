"""A model under an intervention graph: call it as the model itself, with one keyword for each further run.

reft(base)                              only the base run: a tokenizer's output, or the text itself
das(base, source=other)                 one forward for each distinct run, sources first
out.collected["name"]                   what the graph's Collect nodes saw
reft.generate(**prompt)                 the same positions as in training
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from causal_reft.display import html_text, treescope_repr
from causal_reft.errors import GraphError, RunError, nearest
from causal_reft.execution import storage
from causal_reft.execution.backend import Backend, HookBackend
from causal_reft.execution.checkpointing import enable_checkpointing, recomputes
from causal_reft.execution.finite import check_finite_states
from causal_reft.execution.generation import GENERATION_INPUTS, check_generation, padded_left
from causal_reft.execution.input_checks import OURS, accepted_keywords, check_keywords
from causal_reft.execution.inputs import Inputs, RunInputs, active_rows, parse_inputs
from causal_reft.execution.locating import device_of, is_trainable, move_to_sites
from causal_reft.execution.strings import Text, tokenised
from causal_reft.execution.transform import States, in_batch_shape
from causal_reft.featurizers import computed_once
from causal_reft.graph import Collect, InterventionGraph
from causal_reft.tensors import Tensor

BACKENDS = ("hooks", "nnsight")


class IntervenedModel(nn.Module):
    """A model and a graph; the model stays the user's own object, unchanged.

    One base model is used by one thread at a time: calls under graphs, plans and served batches on it wait for each
    other, and calls of the plain model in other threads are never edited.

    Args:
        model: a transformers model, or any `nn.Module` whose sites are named by path. The nnsight backend also takes
            a repo id, a folder, and nnsight's own objects (a `TransformersModel`, an `NNsight`).
        graph: the interventions; their tensors go to the device of their site.
        tokenizer: what turns strings into the model's inputs; also kept for saving.
        backend: "hooks" (default) or "nnsight".
        remote: with the nnsight backend, where it runs: False here, True on NDIF, "local" as a rehearsal of that.

    Attributes:
        about: how the graph was trained, for the model card: section -> name -> text or number. `fit` and `ReftTrainer`
            write the sections "recipe", "data" and "metrics"; others are yours.

    Raises:
        SiteError: a site that the model does not have.
        GraphError: an unknown backend, or a model that it does not take.
    """

    def __init__(
        self,
        model: Any,
        graph: InterventionGraph,
        tokenizer: Any = None,
        backend: str = "hooks",
        remote: bool | str = False,
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise GraphError(f"backend={backend!r} does not exist. {nearest(backend, BACKENDS)}")
        if backend == "hooks" and (remote or not isinstance(model, nn.Module)):
            given = f"remote={remote!r}" if remote else f"a {type(model).__name__} as model"
            raise GraphError(
                f"The hooks backend runs a torch module here, and was given {given}. Write backend='nnsight'."
            )
        self.backend_name, self.remote, self._envoy = backend, remote, None
        if backend == "nnsight":
            from causal_reft.execution.nnsight import opened

            self._envoy = opened(model, tokenizer, remote)
            model, tokenizer = self._envoy._module, tokenizer or getattr(self._envoy, "tokenizer", None)
        self.base_model, self.tokenizer = model, tokenizer
        self.trained_base: tuple[str, ...] = ()  # parameters of the base model that were trained beside the graph
        self.about: dict[str, dict[str, Any]] = {}
        if taken := (set(graph.runs) - {"base"}) & accepted_keywords(self.base_model):
            raise GraphError(
                f"A run is called {sorted(taken)[0]!r}, which is an argument of the model's own forward. Rename the "
                f"run."
            )
        self._use(graph)

    def _use(self, graph: InterventionGraph) -> None:
        self.graph = graph
        self.interventions = graph.modules
        self.backend: Backend = self._backend(graph)
        move_to_sites(graph, self.base_model)

    def _backend(self, graph: InterventionGraph) -> Backend:
        if self._envoy is None:
            return HookBackend(self.base_model, graph)
        from causal_reft.execution.nnsight import NNsightBackend

        return NNsightBackend(self._envoy, graph, self.remote)

    def with_graph(self, graph: InterventionGraph) -> IntervenedModel:
        """The same model object under another graph: `both.with_graph(both.graph.only("german"))`."""
        return IntervenedModel(self._envoy or self.base_model, graph, self.tokenizer, self.backend_name, self.remote)

    def scaled(self, *every: float | int, **strengths: float | int) -> IntervenedModel:
        """The same model with stronger or weaker edits: `model.scaled(german=0.5)`; see `InterventionGraph.scaled`."""
        return self.with_graph(self.graph.scaled(*every, **strengths)).train(self.training)

    def forward(self, base: RunInputs | Text | None = None, **keywords: Any) -> Any:
        """The base model's own output for the base run, with `.collected` beside it.

        Args:
            base: the base run's inputs: a tokenizer's output, a tensor for a plain module, or, where the model has its
                tokenizer, a string, a list of strings, or conversations. Where only the base run exists, its entries
                may be given as keywords instead: `model(**batch)`.
            keywords: one for each further run of the graph; arguments of the model's own forward (labels, ...);
                `active` (node name -> one bool a row), `spans` and `prompt_lengths` of the base run.

        Returns:
            The model's output object. `.collected` maps the name of each Collect node to (batch, positions, rank or
            d_model); rows that name fewer positions than others are filled up with NaN.

        Raises:
            RunError: a missing or unused run, an unknown keyword.
            PositionError: positions outside a prompt; runs whose positions do not pair.
        """
        runs = self._parse(base, keywords)
        output, states = self._execute(runs, wants_output=True)
        return with_collected(output, self._collected(states))

    def collect(self, base: RunInputs | Text | None = None, **keywords: Any) -> dict[str, Tensor]:
        """What the Collect nodes see, without computing anything after the deepest of them."""
        runs = self._parse(base, keywords, needs=self._runs_for_collects())
        _, states = self._execute(runs, wants_output=False)
        return self._collected(states)

    @torch.no_grad()
    def generate(self, base: RunInputs | Text | None = None, **keywords: Any) -> Any:
        """The model's own `generate` under the graph; takes its options, and one keyword for each further run.

        Edits of prompt positions act while the prompt is read; edits of "generated" positions on every decoding step.
        Right-padded prompts of a decoder are padded on the left first, as generation requires.
        """
        base = self._tokenised("base", base)
        given = dict(base) if isinstance(base, Mapping) else {} if base is None else {"input_ids": base}
        options = {key: value for key, value in keywords.items() if key not in self.graph.runs}
        given.update({key: options.pop(key) for key in list(options) if key in GENERATION_INPUTS or key in OURS})
        check_generation(self.base_model, {**options, **given})
        further = {key: value for key, value in keywords.items() if key in self.graph.runs}
        runs = self._parse(padded_left(given, self.base_model), further)
        base_inputs = runs.pop("base")
        with _stateless(self), computed_once():
            _, states = self._execute(runs, wants_output=False)
            return self.backend.generate(base_inputs, states, **options)

    def train(self, mode: bool = True) -> IntervenedModel:
        """Training mode of the *edits* (dropout on edits, soft masks); the base model keeps the mode that its owner
        set.
        """
        self.training = mode
        self.interventions.train(mode)
        return self

    def eval(self) -> IntervenedModel:
        """Evaluation mode of the edits and of the base model, whose dropout is then off. `train()` does not undo it for
        the base model: a frozen base is trained around in evaluation mode."""
        self.base_model.eval()
        return self.train(False)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The graph's trainable parameters, each once."""
        return (p for p in self.interventions.parameters() if p.requires_grad)

    def count_parameters(self) -> tuple[int, int]:
        """(trainable parameters of the graph, parameters of the base model)."""
        return self.graph.n_trainable_parameters, sum(p.numel() for p in self.base_model.parameters())

    def print_trainable_parameters(self) -> None:
        """One line, as peft prints it; it says whether the base model's parameters ask for gradients.

        Wrapping a model freezes nothing: `fit` and `ReftTrainer` freeze it for the time of training.
        """
        learned, base = self.count_parameters()
        asking = sum(p.numel() for p in self.base_model.parameters() if p.requires_grad)
        said = f"{asking:,} of them ask for gradients; fit and ReftTrainer freeze them" if asking else "frozen"
        share = 100 * learned / max(base, 1)
        print(f"trainable parameters: {learned:,} || base model: {base:,} ({said}) || {share:.4f} %")

    @property
    def config(self) -> Any:
        """The base model's config."""
        return self.base_model.config

    @property
    def accepts_loss_kwargs(self) -> bool:
        """What `transformers.Trainer` asks before it passes `num_items_in_batch`."""
        parameters = inspect.signature(self.base_model.forward).parameters.values()
        return any(p.kind is p.VAR_KEYWORD for p in parameters)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Passed on to the base model, which recomputes its blocks (and the edits in them) during backward."""
        enable_checkpointing(self.base_model, activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    @property
    def device(self) -> torch.device:
        """Where the base model computes."""
        return device_of(self.base_model)

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the graph, what it was made for, and those parameters of the base model that were trained with it (a
        classification head, an adapter); never the frozen ones; and README.md, a model card with the graph and what
        `about` says, unless somebody wrote one there. See `load_graph` for the files.
        """
        storage.save(self.graph, self.base_model, folder, overwrite, self.trained_base, self.about)

    @staticmethod
    def from_pretrained(
        folder: str | os.PathLike[str], model: nn.Module | None = None, tokenizer: Any = None, backend: str = "hooks"
    ) -> IntervenedModel:
        """Load what `save_pretrained` wrote (a folder or a hub id), onto `model` or the recorded base model.

        The edits are in evaluation mode, as models that transformers loads are.

        Raises:
            StorageError: unreadable folder, or a base model of another shape.
        """
        graph, model, tokenizer, trained_base, about = storage.load(folder, model, tokenizer)
        found = IntervenedModel(model, graph, tokenizer, backend).train(False)
        found.trained_base, found.about = trained_base, about
        return found

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what `save_pretrained` writes; `options` go to `huggingface_hub.upload_folder`."""
        return storage.push(self.graph, self.base_model, repo_id, self.trained_base, self.about, **options)

    def __repr__(self) -> str:
        return f"IntervenedModel({type(self.base_model).__name__}, backend={self.backend_name!r})\n{self.graph!r}"

    __treescope_repr__ = treescope_repr

    def _repr_html_(self) -> str:
        return html_text(repr(self).splitlines()[0]) + self.graph._repr_html_()

    def _parse(
        self, base: RunInputs | Text | None, keywords: Mapping[str, Any], needs: set[str] | None = None
    ) -> dict[str, Inputs]:
        """One `Inputs` for each run that is needed."""
        own = {key: value for key, value in keywords.items() if key not in self.graph.runs or key == "base"}
        given: dict[str, Any] = {
            key: value for key, value in keywords.items() if key in self.graph.runs and key != "base"
        }
        check_keywords(own, accepted_keywords(self.base_model), self.graph.runs)
        active = own.pop("active", None)
        base, given = self._tokenised("base", base), {run: self._tokenised(run, text) for run, text in given.items()}
        if base is not None or own:
            given["base"] = self._merge(base, own)
        needs = set(self.graph.runs) if needs is None else needs
        if missing := sorted(needs - set(given)):
            raise RunError(
                f"The graph needs run{'s' * (len(missing) > 1)} {', '.join(missing)}, which the call does not give. "
                f"Write model(base, {', '.join(f'{run}=...' for run in self.graph.runs if run != 'base')})."
            )
        runs = {run: parse_inputs(run, inputs, self.base_model) for run, inputs in given.items()}
        return self._activate(runs, active)

    def _tokenised(self, run: str, given: Any) -> Any:
        return tokenised(run, given, self.base_model, self.tokenizer)

    def _merge(self, base: Any, own: dict[str, Any]) -> Any:
        if base is None:
            return own
        if not isinstance(base, Mapping):
            if own:
                raise RunError(
                    f"A {type(base).__name__} as base takes no further arguments, but {', '.join(own)} were given. "
                    "Pass a mapping."
                )
            return base
        twice = set(base) & set(own)
        if twice:
            raise RunError(f"{', '.join(sorted(twice))} given twice: inside base and as a keyword.")
        return {**base, **own}

    def _activate(self, runs: dict[str, Inputs], active: Mapping[str, Any] | None) -> dict[str, Inputs]:
        """Check the names of per-row switches and hand each to the run that its node edits."""
        for inputs in runs.values():
            for name in (*inputs.active, *(active or {})):
                if name not in self.graph.edits:
                    raise RunError(
                        f"active={{{name!r}: ...}} names no edit of the graph. {nearest(name, self.graph.edits)}"
                    )
        if active is None:
            return runs
        for name, rows in active.items():
            run = self.graph.edits[name].run
            runs[run].active[name] = active_rows(name, rows, runs[run].batch)
        return runs

    def _execute(self, runs: Mapping[str, Inputs], wants_output: bool) -> tuple[Any, States]:
        """Run by run in the order of the graph; `states` fills up on the way."""
        states: States = {}
        output = None
        once = nullcontext() if recomputes(self.base_model) else computed_once()
        with once:
            for run in self.graph.runs:
                if run not in runs:
                    continue
                with torch.set_grad_enabled(torch.is_grad_enabled() and self._differentiates(run, runs)):
                    result = self.backend.forward(
                        run, runs[run], states, training=self.training, wants_output=wants_output and run == "base"
                    )
                output = result if run == "base" else output
        return output, states

    def _differentiates(self, run: str, runs: Mapping[str, Inputs]) -> bool:
        """The base run always may; a further run only when something in it, or in a run that it takes states from,
        is trained.
        """
        if run == "base" or any(p.requires_grad for p in self.base_model.parameters()):
            return True
        waiting, upstream = {run}, set[str]()
        while waiting:
            upstream.add(waiting.pop())
            waiting = {
                need.run for node in self.graph.edits.values() if node.run in upstream for need in node.needs()
            } - upstream
        values = [value for name in upstream & set(runs) for value in (*runs[name].args, *runs[name].kwargs.values())]
        asks = any(isinstance(value, Tensor) and value.requires_grad for value in values)
        return asks or any(is_trainable(node) for node in self.graph.edits.values() if node.run in upstream)

    def _collected(self, states: States) -> dict[str, Tensor]:
        found = {}
        for name, node in self.graph.collects.items():
            assert node.site is not None
            state = states[node.run, node.site]
            check_finite_states(name, node, state)
            found[name] = in_batch_shape(_read(node, state.h), state.tokens)
        return found

    def _runs_for_collects(self) -> set[str]:
        """The runs that Collect nodes look at, and all that those wait for."""
        from causal_reft.graph.intervention_graph import run_dependencies

        before = run_dependencies(self.graph.nodes.values())
        wanted, frontier = set[str](), {node.run for node in self.graph.collects.values()}
        if not frontier:
            raise GraphError(
                "The graph has no Collect node, so there is nothing to collect. Add seen=Collect('base', Site(...))."
            )
        while frontier:
            run = frontier.pop()
            wanted.add(run)
            frontier |= before[run] - wanted
        return wanted


def _read(node: Collect, h: Tensor) -> Tensor:
    if node.featurizer is None:
        return h
    if h.shape[-1] != node.featurizer.d_model:
        raise GraphError(
            f"{node!r}: the site is {h.shape[-1]} wide in this model. Build the featurizer with d_model={h.shape[-1]}."
        )
    return node.featurizer.read(h)


class CollectedTuple(tuple):
    """A model's tuple output with `.collected` beside it."""

    collected: dict[str, Tensor]


def with_collected(output: Any, collected: dict[str, Tensor]) -> Any:
    """The same output object, now with an attribute `collected`."""
    if type(output) is tuple:
        output = CollectedTuple(output)
    output.collected = collected
    return output


@contextmanager
def _stateless(model: IntervenedModel) -> Iterator[None]:
    """Evaluation mode of the edits inside."""
    was = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was)
