"""The architecture table: where each family of transformers keeps the values that `Site` names.

A row is data. `blocks` is the name of the `ModuleList` of blocks; a component is a module path inside the block (or,
with `..`, beside the list), a port, and how the wanted value lies in the last axis of what flows there:

    "whole"          the full width
    "third:i/n"      the i-th of n equal parts, the n parts side by side (GPT-2's c_attn: query, key, value)
    "perhead:i/3"    per head (query, key, value) side by side (GPT-NeoX, BLOOM)
    "grouped:q|k|v"  query heads, then key heads, then value heads (Phi-3)

A model without a row is given one by `register_architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from causal_reft.errors import SiteError, nearest
from causal_reft.sites.site import COMPONENTS


@dataclass(frozen=True)
class Port:
    """A module path relative to a block ("" is the block itself), "input" or "output", and the layout there."""

    path: str
    port: str
    layout: str = "whole"


@dataclass(frozen=True)
class Architecture:
    """One row: the name of the block list and the port of every component the family has.

    `counts_positions`: whether the family numbers left-padded tokens wrongly unless it is given `position_ids`.
    """

    blocks: str
    components: Mapping[str, Port] = field(default_factory=dict)
    counts_positions: bool = True

    def changed(self, **ports: Port) -> Architecture:
        """The row with some ports replaced."""
        return Architecture(self.blocks, {**self.components, **ports}, self.counts_positions)


def _family(
    blocks: str,
    attention: str,
    mlp: str,
    projection: str,
    down: str,
    norm: str,
    qkv: Mapping[str, tuple[str, str]],
) -> Architecture:
    """A decoder row from its module names; `qkv` maps query/key/value to (module inside attention, layout)."""
    components = {
        "block_input": Port("", "input"),
        "block_output": Port("", "output"),
        "attention_input": Port(attention, "input"),
        "attention_output": Port(attention, "output"),
        "attention_head_output": Port(f"{attention}.{projection}", "input"),
        "mlp_input": Port(mlp, "input"),
        "mlp_activation": Port(f"{mlp}.{down}", "input"),
        "mlp_output": Port(mlp, "output"),
        "final_norm": Port(f"..{norm}", "output"),
    }
    for part, (module, layout) in qkv.items():
        components[f"attention_{part}"] = Port(f"{attention}.{module}", "output", layout)
    return Architecture(blocks, {"embeddings": Port("", "input"), **components})


_SEPARATE = {"query": ("q_proj", "whole"), "key": ("k_proj", "whole"), "value": ("v_proj", "whole")}
_THIRDS = {p: ("c_attn", f"third:{i}/3") for i, p in enumerate(("query", "key", "value"))}
_PER_HEAD = {p: ("query_key_value", f"perhead:{i}/3") for i, p in enumerate(("query", "key", "value"))}

_LLAMA = _family("layers", "self_attn", "mlp", "o_proj", "down_proj", "norm", _SEPARATE)
_GPT2 = _family("h", "attn", "mlp", "c_proj", "c_proj", "ln_f", _THIRDS)
_NEOX = _family("layers", "attention", "mlp", "dense", "dense_4h_to_h", "final_layer_norm", _PER_HEAD)

_OPT = _family("layers", "self_attn", "", "out_proj", "fc2", "final_layer_norm", _SEPARATE).changed(
    mlp_input=Port("fc1", "input"), mlp_activation=Port("fc2", "input"), mlp_output=Port("fc2", "output")
)

_BERT = Architecture(
    "layer",
    {
        "embeddings": Port("", "input"),
        "block_input": Port("", "input"),
        "block_output": Port("", "output"),
        "attention_input": Port("attention", "input"),
        "attention_output": Port("attention.output.dense", "output"),
        "attention_head_output": Port("attention.output.dense", "input"),
        "attention_query": Port("attention.self.query", "output"),
        "attention_key": Port("attention.self.key", "output"),
        "attention_value": Port("attention.self.value", "output"),
        "mlp_input": Port("intermediate", "input"),
        "mlp_activation": Port("intermediate", "output"),
        "mlp_output": Port("output.dense", "output"),
    },
)

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    "opt": _OPT,
    "bert": _BERT,
    "roberta": Architecture(_BERT.blocks, _BERT.components, counts_positions=False),
    **dict.fromkeys(
        ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3"],
        _LLAMA,
    ),
}


def register_architecture(model_type: str, blocks: str, components: Mapping[str, Port | tuple[str, ...]]) -> None:
    """Give a model family without a row one (or replace its row).

    Args:
        model_type: `model.config.model_type`.
        blocks: the attribute name of the `ModuleList` of blocks, e.g. "layers".
        components: component -> `Port` or (path inside the block, "input" | "output"[, layout]).

    Raises:
        SiteError: a component that the vocabulary does not have, or an unknown port.

    Example:
        >>> register_architecture("my_model", blocks="layers", components={"block_output": ("", "output")})
    """
    ports = {name: port if isinstance(port, Port) else Port(*port) for name, port in components.items()}
    for name, port in ports.items():
        if name not in COMPONENTS:
            raise SiteError(f"register_architecture({model_type!r}): {name!r} is no component. {nearest(name, COMPONENTS)}")
        if port.port not in ("input", "output"):
            raise SiteError(f"register_architecture({model_type!r}): {name!r} has port {port.port!r}; use input or output.")
    ARCHITECTURES[model_type] = Architecture(blocks, {"block_output": Port("", "output"), **ports})
