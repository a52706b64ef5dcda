"""One forward (or one `generate`) of one run, port by port: find the tensor there, name its tokens, `transform`, put
it back.

Every backend visits the same way; they differ in how they get at a port. A value may be a tensor, a tuple or mapping
that starts with one (decided from the value); how it lies is read by `execution/layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from causal_reft.errors import GraphError, PositionError, RunError, SiteError
from causal_reft.execution.frame import Frame
from causal_reft.execution.input_checks import CACHES, cached_tokens
from causal_reft.execution.inputs import Inputs
from causal_reft.execution.layout import Rebuild, lay_out
from causal_reft.execution.transform import Edit, Place, States, transform
from causal_reft.graph import Interchange
from causal_reft.sites import Location, Site, Tokens
from causal_reft.tensors import Float, Tensor

_TEXT = ("decoder_input_ids", "input_ids", "inputs_embeds", "decoder_inputs_embeds")


@dataclass(frozen=True)
class PortWork:
    """Everything that one run does at one (module, port), located once for a model."""

    location: Location
    edits: tuple[tuple[str, Interchange, Location], ...] = ()
    reads: tuple[tuple[Site, Location], ...] = ()
    collects: tuple[tuple[Site, Location], ...] = ()


class Visit:
    """A run on its way through the model: its work, its windows on the texts, and the states that it collects.

    `doubted`: ports whose values lie as their shapes alone cannot tell; `strict` refuses such.
    """

    def __init__(
        self,
        run: str,
        work: Sequence[PortWork],
        inputs: Inputs,
        states: States,
        training: bool,
        decoding: bool = False,
        strict: bool = False,
    ) -> None:
        self.run, self.work, self.states, self.training, self.decoding = run, work, states, training, decoding
        self.strict = strict
        self.frame = Frame(inputs, decoding)
        self.decoder_frame = None if inputs.decoder is None else Frame(inputs.decoder, decoding)
        self.reached: set[tuple[str, str]] = set()
        self.doubted: dict[tuple[str, str], Location] = {}

    def see(self, port: PortWork, value: Any, again: bool = False) -> Any:
        """The new value at a port. `again`: autograd recomputes what was seen before.

        Raises:
            SiteError: no real-valued tensor there; a module that runs twice in one forward.
            PositionError: a shape without room for the named positions.
        """
        if not again:
            self._reach(port.location)
        stream, rebuild = find_tensor(value, port.location)
        frame = self._frame_at(port.location)
        laid = lay_out(stream, frame, port.location)
        shaped = laid.value
        if laid.doubtful:
            self._doubt(port.location, shaped)

        width = shaped.shape[1] if laid.has_positions else 0

        def tokens(node: str | None, site: Site) -> Tokens:
            return _tokens(frame, node, site, len(shaped), width, shaped)

        repeats = frame.repeats(len(shaped))
        new, kept = transform_at(port, shaped, self.run, tokens, self.states, self.training, repeats)
        if not again:
            self.states.update(kept)
        return value if new is shaped else rebuild(laid.back(new))

    @property
    def complete(self) -> bool:
        """Whether every port has been reached."""
        return len(self.reached) == len(self.work)

    def check_complete(self) -> None:
        """After a whole forward, and after a whole text is decoded, every port must have been reached.

        Raises:
            GraphError: with the ports that were not.
        """
        missed = [port.location.path for port in self.work if port.location.key not in self.reached]
        if missed:
            raise GraphError(
                f"Run {self.run!r} never reached {', '.join(map(repr, missed))}: the model's forward does not call "
                "it with these inputs."
            )

    def follow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Before each forward of `generate`: note which columns it computes. Returns whether the prompt is read
        already."""
        frame = self.decoder_frame or self.frame
        named = next((kwargs[name] for name in _TEXT if kwargs.get(name) is not None), None)
        given = args[0] if named is None else named
        cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
        if cache is None and given.shape[1] < (frame.inputs.width or 0):
            raise RunError(
                f"generate gave the model {given.shape[1]} tokens of a prompt of {frame.inputs.width} and no cache "
                f"that says which ({', '.join(CACHES)}), so the positions of edits are not known. Write generate(..., "
                "use_cache=False)."
            )
        if (offset := cached_tokens(cache)) is None:
            offset = frame.offset + (frame.step or 0)
        frame.moved(offset, len(given), given.shape[1])
        return offset >= (frame.inputs.width or 0)

    def _frame_at(self, location: Location) -> Frame:
        return self.decoder_frame if location.stack == "decoder" and self.decoder_frame is not None else self.frame

    def _doubt(self, location: Location, value: Tensor) -> None:
        """Note a value whose axes are a guess; on a server, where nothing can be asked afterwards, refuse it."""
        self.doubted[location.key] = location
        if self.strict and self.frame.columns == len(value):
            raise PositionError(
                f"{location.path!r}: the batch has as many rows as the texts have tokens, so the first axis of its "
                "value could be either. Pad the texts to another width."
            )

    def _reach(self, location: Location) -> None:
        if location.key in self.reached and not self.decoding:
            raise SiteError(
                f"{location.path!r} runs more than once in one forward pass, so 'its {location.port}' has no single "
                f"meaning. Name a module that runs once."
            )
        self.reached.add(location.key)


def transform_at(
    port: PortWork,
    stream: Float[Tensor, "batch pos width"],
    run: str,
    tokens: Callable[[str | None, Site], Tokens],
    states: States,
    training: bool,
    repeats: int = 1,
) -> tuple[Float[Tensor, "batch pos width"], States]:
    """Everything that a run does at one port: the new value, and the states that are collected there.

    `tokens` gives what a site names in the value, in the active rows of an edit or, for `None`, in all.
    """

    def place(node: str | None, site: Site, location: Location) -> Place:
        return Place(site, location, tokens(node, site))

    return transform(
        stream,
        run,
        [Edit(name, node, place(name, node.site, where), repeats) for name, node, where in port.edits],
        [place(None, site, where) for site, where in port.reads],
        [place(None, site, where) for site, where in port.collects],
        states,
        training,
    )


def find_tensor(value: Any, location: Location) -> tuple[Tensor, Rebuild]:
    """The hidden state in what a module takes or gives, and how to put another in its place.

    Raises:
        SiteError: there is none.
    """
    if isinstance(value, Tensor):
        return value, lambda new: new
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return value[0], lambda new: type(value)((new, *value[1:]))
    if isinstance(value, Mapping):
        name = next((key for key, item in value.items() if isinstance(item, Tensor) and item.is_floating_point()), None)
        if name is not None:
            return value[name], lambda new: type(value)(**{**value, name: new})
    raise SiteError(
        f"{location.path!r} gives a {type(value).__name__} at its {location.port}, not a tensor or a tuple that starts "
        "with one. Name a module inside it."
    )


def find_input(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], location: Location) -> str | None:
    """Where a module's hidden state comes in: `None` for the first positional argument, else the name of a keyword.

    Raises:
        SiteError: no tensor among the arguments.
    """
    if args and isinstance(args[0], Tensor):
        return None
    name = next((key for key, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point()), None)
    if name is None:
        raise SiteError(f"{location.path!r} is not called with a tensor, so it has no 'input' port.")
    return name


def _tokens(frame: Frame, node: str | None, site: Site, rows: int, width: int, stream: Tensor) -> Tokens:
    """The named tokens; a value without positions (a pooled text) has one, which only 'all' names."""
    if width:
        return frame.tokens(node, site.where, rows, width, stream.device)
    if not site.where.everything:
        raise PositionError(f"{site!r} has no positions in this model: one vector for each row. Write positions='all'.")
    alone = Frame(Inputs((), {}, frame.inputs.batch, active=frame.inputs.active))
    return alone.tokens(node, site.where, rows, 1, stream.device)
