"""The architecture table: where each family of transformers keeps the values that `Site` names.

A row is data. `blocks` names the `ModuleList` of blocks; a component is a module path inside the block (or, with `..`,
beside the list), a port, and how the wanted value lies in the last axis of what flows there:

    "whole"       the full width
    "side:part"   all query heads, then all key heads, then all value heads (GPT-2, Phi-3); part is q, k or v
    "group:part"  for each key head: its query heads, the key, the value (GPT-NeoX, BLOOM, Falcon)

A component means the same in every family: `attention_input` and `mlp_input` are what the projections read (after the
norm, where it comes first), `attention_query/key/value` what they give (before rotary embeddings and norms of heads),
`attention_head_output` what the output projection reads, `attention_output` and `mlp_output` what the last projection
gives (before a norm that some families put after it). A model without a row is given one by `register_architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from causal_reft.errors import SiteError, nearest
from causal_reft.sites.site import COMPONENTS


@dataclass(frozen=True)
class Port:
    """A module path relative to a block ("" is the block itself), "input" or "output", and the layout there."""

    path: str
    port: str
    layout: str = "whole"


def key_heads(config: Any) -> int:
    """How many key and value heads a layer has: as many as query heads, unless the config says otherwise."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _context(config: Any) -> int:
    return config.max_position_embeddings


def _no(config: Any) -> bool:
    return False


def _yes(config: Any) -> bool:
    return True


def _falcon_key_heads(config: Any) -> int:
    return 1 if config.multi_query and not config.new_decoder_architecture else config.num_kv_heads


@dataclass(frozen=True)
class Architecture:
    """One row: the name of the block list and the port of every component the family has.

    `counts_positions`: whether the family numbers left-padded tokens wrongly unless it is given `position_ids`.
    `learned_positions`: how many positions there are where each has a learned vector, so that a text cannot go beyond.
    `decoder`: the row of the second stack of an encoder-decoder family; this row is then its encoder.
    `adds_mlp`: whether a block's output is its `mlp_output` plus the rest of the block, without a norm on the way.
    """

    blocks: str
    components: Mapping[str, Port] = field(default_factory=dict)
    counts_positions: bool = True
    learned_positions: Callable[[Any], int] | None = None
    key_heads: Callable[[Any], int] = key_heads
    decoder: Architecture | None = None
    adds_mlp: Callable[[Any], bool] = _no

    def having(self, **ports: Port) -> Architecture:
        """The row with some ports added or replaced."""
        return replace(self, components={**self.components, **ports})

    def lacking(self, *components: str) -> Architecture:
        """The row without some components."""
        return replace(
            self, components={name: port for name, port in self.components.items() if name not in components}
        )


def _row(
    blocks: str,
    attention: str,
    qkv: Mapping[str, tuple[str, str]],
    projection: str,
    mlp: str,
    down: str,
    norm: str = "",
) -> Architecture:
    """A row from its module names inside a block; `qkv` maps query/key/value to (module inside attention, layout),
    and `projection` is inside attention too.
    """
    components = {
        "embeddings": Port("", "input"),
        "block_input": Port("", "input"),
        "block_output": Port("", "output"),
        "attention_input": Port(attention, "input"),
        **{f"attention_{part}": Port(f"{attention}.{name}", "output", layout) for part, (name, layout) in qkv.items()},
        "attention_head_output": Port(f"{attention}.{projection}", "input"),
        "attention_output": Port(f"{attention}.{projection}", "output"),
        "mlp_input": Port(mlp, "input"),
        "mlp_activation": Port(down, "input"),
        "mlp_output": Port(down, "output"),
    }
    components |= {"final_norm": Port(f"..{norm}", "output")} if norm else {}
    return Architecture(blocks, components, adds_mlp=_yes)


_PARTS = ("query", "key", "value")


def _separate(names: str) -> dict[str, tuple[str, str]]:
    return {part: (name, "whole") for part, name in zip(_PARTS, names.split(), strict=True)}


def _fused(name: str, layout: str) -> dict[str, tuple[str, str]]:
    return {part: (name, f"{layout}:{part[0]}") for part in _PARTS}


_QKV = _separate("q_proj k_proj v_proj")
_LLAMA = _row("layers", "self_attn", _QKV, "o_proj", "mlp", "mlp.down_proj", "norm")
_NORMED_SUMMANDS = replace(_LLAMA, adds_mlp=_no)
_MIXTURE = _LLAMA.lacking("mlp_activation").having(mlp_output=Port("mlp", "output"))
_GPT2 = replace(
    _row("h", "attn", _fused("c_attn", "side"), "c_proj", "mlp", "mlp.c_proj", "ln_f"), learned_positions=_context
)
_NEOX = _row(
    "layers", "attention", _fused("query_key_value", "group"), "dense", "mlp", "mlp.dense_4h_to_h", "final_layer_norm"
)
_BLOOM = _row("h", "self_attention", _fused("query_key_value", "group"), "dense", "mlp", "mlp.dense_4h_to_h", "ln_f")
_OPT = replace(
    _row("layers", "self_attn", _QKV, "out_proj", "fc1", "fc2", "final_layer_norm"),
    learned_positions=_context,
    adds_mlp=lambda config: config.do_layer_norm_before,
)
_BERT = replace(
    _row(
        "layer",
        "attention",
        _separate("self.query self.key self.value"),
        "output.dense",
        "intermediate",
        "output.dense",
    ),
    learned_positions=_context,
    adds_mlp=_no,
)
_DISTILBERT = replace(
    _row("layer", "attention", _separate("q_lin k_lin v_lin"), "out_lin", "ffn", "ffn.lin2"),
    learned_positions=_context,
    adds_mlp=_no,
)


def _t5(stack: str, feedforward: int) -> Architecture:
    attention, mlp = "layer.0.SelfAttention", f"layer.{feedforward}.DenseReluDense"
    return _row(f"{stack}.block", attention, _separate("q k v"), "o", mlp, f"{mlp}.wo", "final_layer_norm")


ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": _GPT2,
    "gptj": _row("h", "attn", _QKV, "out_proj", "mlp", "mlp.fc_out", "ln_f"),
    "gpt_neox": _NEOX,
    "opt": _OPT,
    "bloom": replace(_BLOOM, counts_positions=False),
    "falcon": replace(_BLOOM, key_heads=_falcon_key_heads),
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "gemma"], _LLAMA),
    **dict.fromkeys(["gemma2", "gemma3_text", "olmo2"], _NORMED_SUMMANDS),
    **dict.fromkeys(["mixtral", "qwen2_moe", "qwen3_moe"], _MIXTURE),
    "phi3": _row("layers", "self_attn", _fused("qkv_proj", "side"), "o_proj", "mlp", "mlp.down_proj", "norm"),
    "bert": _BERT,
    "roberta": replace(
        _BERT,
        counts_positions=False,
        learned_positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    ),
    "distilbert": _DISTILBERT,
    "t5": replace(_t5("encoder", 1), counts_positions=False, decoder=_t5("decoder", 2)),
    "vit": _row("layers", "attention", _QKV, "o_proj", "mlp", "mlp.fc2", "layernorm"),
}


def register_architecture(model_type: str, blocks: str, components: Mapping[str, Port | tuple[str, ...]]) -> None:
    """Give a model family without a row one (or replace its row).

    Args:
        model_type: `model.config.model_type`.
        blocks: the name of the `ModuleList` of blocks, e.g. "layers" or, where that is not unique, "encoder.layers".
        components: component -> `Port` or (path inside the block, "input" | "output"[, layout]).

    Raises:
        SiteError: a component that the vocabulary does not have, an unknown port or layout.

    Example:
        >>> register_architecture("my_model", blocks="layers", components={"block_output": ("", "output")})
    """
    ports = {name: port if isinstance(port, Port) else Port(*port) for name, port in components.items()}
    for name, port in ports.items():
        if name not in COMPONENTS:
            raise SiteError(
                f"register_architecture({model_type!r}): {name!r} is no component. {nearest(name, COMPONENTS)}"
            )
        if port.port not in ("input", "output"):
            raise SiteError(
                f"register_architecture({model_type!r}): {name!r} has port {port.port!r}; use input or output."
            )
        if port.layout not in LAYOUTS:
            raise SiteError(
                f"register_architecture({model_type!r}): {name!r} has layout {port.layout!r}. "
                f"{nearest(port.layout, LAYOUTS)}"
            )
    ARCHITECTURES[model_type] = Architecture(blocks, {"block_output": Port("", "output"), **ports})


LAYOUTS = ("whole", *(f"{order}:{part}" for order in ("side", "group") for part in "qkv"))
