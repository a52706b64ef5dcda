"""How learned subspaces lie: to each other, to the principal directions of states, to the directions of tokens.

    angle_table({"seed 0": R0, "seed 1": R1})      principal angles of every pair, and of random subspaces beside them
    pca_overlap(R, states)                         |R v|^2 of each principal direction v: 1 inside, 0 outside
    token_overlap(R, model, tokenizer)             |R u|^2 / |u|^2 of each token's unembedding direction u

All three are the same for every basis of a subspace. A single row of a learned rotation has no such meaning: any other
basis does the same edit. `direction_tokens` is for subspaces of rank 1 and for directions that one has chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from causal_reft.errors import DataError
from causal_reft.featurizers import Featurizer, Subspace, principal_angles, random_frames
from causal_reft.sites import Site, locate
from causal_reft.tensors import Float, Rows, Tensor

Span = Featurizer | Tensor


def angle_table(subspaces: Mapping[str, Span], draws: int = 100, seed: int = 0) -> pd.DataFrame:
    """The principal angles of every pair, for `plots.angle_matrix`.

    Args:
        subspaces: by name (of seeds, layers, methods): featurizers that read linearly, or rows (rank, d_model).
        draws: of random subspaces of the same ranks.
        seed: of those draws.

    Returns:
        Columns `one`, `two`, `index` (0 is the smallest angle), `angle` in degrees, and `random`: the mean of that
        angle between random subspaces of the same two ranks.

    Raises:
        DataError: fewer than two subspaces, or of different widths.
    """
    rows = {name: orthonormal(span) for name, span in subspaces.items()}
    widths = {name: len(span.mT) for name, span in rows.items()}
    if len(rows) < 2 or len(set(widths.values())) > 1:
        raise DataError(
            f"Angles are between two or more subspaces of one space; given: {widths or 'none'} (name: d_model)."
        )
    made = []
    for one, two in combinations(rows, 2):
        chance = random_angles(len(rows[one].mT), len(rows[one]), len(rows[two]), draws, seed)
        for index, angle in enumerate(principal_angles(rows[one], rows[two]).tolist()):
            made.append({"one": one, "two": two, "index": index, "angle": angle, "random": float(chance[index])})
    return pd.DataFrame(made)


def random_angles(d_model: int, one: int, two: int, draws: int = 100, seed: int = 0) -> np.ndarray:
    """The mean principal angles in degrees between random subspaces of two ranks, ascending: "angle"."""
    first, second = random_frames(draws, one, d_model, 2 * seed), random_frames(draws, two, d_model, 2 * seed + 1)
    angles = [principal_angles(a, b) for a, b in zip(first, second, strict=True)]
    return torch.stack(angles).mean(0).numpy()


def pca_overlap(span: Span, states: Float[Tensor, "... d_model"], components: int | None = None) -> pd.DataFrame:
    """How much of each principal direction of some states lies in a subspace.

    Args:
        span: the subspace.
        states: e.g. of `states_at`.
        components: how many directions; by default all that the states have.

    Returns:
        Columns `component`, `variance` (its share of the states' variance), `overlap` in [0, 1], `explained` (the share
        of the variance of the first components that lies in the subspace), and `chance`: rank / d_model.

    Raises:
        DataError: states of another width.
    """
    rows = orthonormal(span)
    flat = states.detach().reshape(-1, states.shape[-1]).to(torch.float64)
    _check_width(rows, flat.shape[-1], "the states")
    _, singular, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    variance = singular**2 / (singular**2).sum()
    kept = int((singular > singular[0] * 1e-9).sum())
    count = min(kept, components or kept)
    overlap = (directions[:count] @ rows.mT).square().sum(1)
    explained = (variance[:count] * overlap).cumsum(0) / variance[:count].cumsum(0)
    columns = {"variance": variance[:count], "overlap": overlap, "explained": explained}
    found = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    found.insert(0, "component", range(count))
    return found.assign(chance=len(rows) / rows.shape[1])


def token_overlap(span: Span, model: nn.Module, tokenizer: Any, top: int | None = 10) -> pd.DataFrame:
    """The tokens whose unembedding directions lie most in a subspace: `token`, `id`, `overlap` in [0, 1], `chance`."""
    rows, directions = orthonormal(span), unembedding(model)
    _check_width(rows, directions.shape[-1], "the unembedding")
    inside, whole = (directions @ rows.mT).square().sum(1), directions.square().sum(1)
    overlap = inside / whole.clamp_min(torch.finfo(whole.dtype).tiny)
    order = overlap.argsort(descending=True, stable=True)[:top].tolist()
    found = {"token": _texts(tokenizer, order), "id": order, "overlap": overlap[order].tolist()}
    return pd.DataFrame(found).assign(chance=len(rows) / rows.shape[1])


def direction_tokens(span: Span, model: nn.Module, tokenizer: Any, top: int = 5) -> pd.DataFrame:
    """The tokens whose logits rise and fall most along each row of a span (see the top about rows of higher rank).

    Returns:
        Columns `direction`, `sign` ("+" or "-"), `place`, `token`, `id`, `logit`: the logit relative to the mean over
        the vocabulary, in units of the largest along that direction.
    """
    rows, directions = orthonormal(span), unembedding(model)
    _check_width(rows, directions.shape[-1], "the unembedding")
    made = []
    for number, logits in enumerate((directions @ rows.mT).mT):
        scaled = logits / logits.abs().max()
        for sign, order in (("+", scaled.argsort(descending=True, stable=True)), ("-", scaled.argsort(stable=True))):
            ids = order[:top].tolist()
            for place, (token, i) in enumerate(zip(_texts(tokenizer, ids), ids, strict=True)):
                made.append(
                    {
                        "direction": number,
                        "sign": sign,
                        "place": place,
                        "token": token,
                        "id": i,
                        "logit": float(scaled[i]),
                    }
                )
    return pd.DataFrame(made)


@torch.no_grad()
def unembedding(model: nn.Module) -> Float[Tensor, "token d_model"]:
    """The direction in the last hidden state along which each token's logit rises against the mean over the vocabulary.

    The final norm is part of it: what it does to a direction, apart from the length, is read off the module itself, as
    (norm(x) - norm(-x)) / 2 of every unit vector. So scales, offsets by one and centring are those of the model.
    """
    head = model.get_output_embeddings().weight.detach()  # type: ignore[operator] - of a Module
    norm = locate(model, Site(component="final_norm")).module
    unit = torch.eye(head.shape[-1], device=head.device, dtype=head.dtype)
    through = ((norm(unit) - norm(-unit)) / 2).to(torch.float64)
    directions = head.to(torch.float64) @ through.mT
    return (directions - directions.mean(0)).cpu()


def orthonormal(span: Span) -> Rows:
    """Orthonormal rows (rank, d_model) in float64 of a featurizer that reads linearly, or of given rows.

    Raises:
        DataError: coordinates that are no linear function of the state.
    """
    rows = span.rows() if isinstance(span, Featurizer) else span
    if rows is None:
        raise DataError(f"{span!r} does not read linearly, so it has no subspace to compare.")
    return Subspace.from_rows(rows.detach().cpu().to(torch.float64)).rotation.detach()


def learned_subspaces(graphs: Mapping[str, Any]) -> Iterator[tuple[str, Featurizer]]:
    """The subspaces of the edits of several graphs, named "graph" or, where a graph has several edits, "graph edit"."""
    for name, graph in graphs.items():
        for edit, node in graph.edits.items():
            yield (name if len(graph.edits) == 1 else f"{name} {edit}"), node.featurizer


def _texts(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def _check_width(rows: Tensor, width: int, what: str) -> None:
    if rows.shape[1] != width:
        raise DataError(
            f"The subspace has d_model={rows.shape[1]}, but {what} have width {width}. Compare states of one site."
        )
