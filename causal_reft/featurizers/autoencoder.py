"""The features of a sparse autoencoder with given weights; what it cannot reconstruct is added back.

    read(h)     = act((h - b_dec) W_enc + b_enc)
    write(h, z) = h + (z - read(h)) W_dec          = decode(z) + (h - decode(read(h)))

Writing what was read changes nothing, whatever the reconstruction error. Features that were written need not be read
back (the dictionary is overcomplete), so this is not a lens, and says so.
"""

from __future__ import annotations

import torch
from einops import einsum
from torch import nn

from causal_reft.errors import FeaturizerError
from causal_reft.featurizers.featurizer import Featurizer, add_in, computing
from causal_reft.tensors import Coordinates, Float, Hidden, Tensor

ACTIVATIONS = ("relu", "identity", "topk", "jumprelu")


class Autoencoder(Featurizer):
    """SAE features as coordinates; the weights are frozen.

    Args:
        encoder: W_enc, (d_model, rank).
        decoder: W_dec, (rank, d_model).
        encoder_bias: b_enc, (rank,); zeros by default.
        decoder_bias: b_dec, (d_model,), subtracted before encoding; zeros by default.
        activation: "relu", "identity", "topk" (keeps the `k` largest, then relu) or "jumprelu" (zero below
            `threshold`).
        k, threshold: of the activation that needs it; `threshold` is a float or (rank,).

    Raises:
        FeaturizerError: shapes that do not fit each other, an unknown activation, a missing k or threshold.
    """

    is_lens = False
    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    threshold: Tensor

    def __init__(
        self,
        encoder: Float[Tensor, "d_model rank"],
        decoder: Float[Tensor, "rank d_model"],
        encoder_bias: Float[Tensor, " rank"] | None = None,
        decoder_bias: Float[Tensor, " d_model"] | None = None,
        activation: str = "relu",
        k: int | None = None,
        threshold: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.rank = encoder.shape
        if activation not in ACTIVATIONS:
            raise FeaturizerError(f"Autoencoder(activation={activation!r}): allowed are {', '.join(ACTIVATIONS)}.")
        if (activation == "topk") != (k is not None) or (activation == "jumprelu") != (threshold is not None):
            raise FeaturizerError(
                "Autoencoder: activation='topk' goes with k=..., 'jumprelu' with threshold=...; others take neither."
            )
        self.activation, self.k = activation, k
        zeros = torch.zeros(())
        tensors = {
            "encoder": encoder,
            "decoder": decoder,
            "encoder_bias": zeros.expand(self.rank) if encoder_bias is None else encoder_bias,
            "decoder_bias": zeros.expand(self.d_model) if decoder_bias is None else decoder_bias,
            "threshold": torch.as_tensor(0.0 if threshold is None else threshold).expand(self.rank),
        }
        for name, tensor in tensors.items():
            master = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).contiguous().clone()
            setattr(self, name, nn.Parameter(master, requires_grad=False))

    def read(self, h: Hidden) -> Coordinates:
        dtype = computing(h, self.encoder)
        centred = h.to(dtype) - self.decoder_bias.to(dtype)
        pre = einsum(centred, self.encoder.to(dtype), "... d_model, d_model rank -> ... rank") + self.encoder_bias.to(
            dtype
        )
        return self._activate(pre)

    def write(self, h: Hidden, z: Coordinates) -> Hidden:
        decoder = self.decoder.to(computing(h, self.decoder, z))
        change = z.to(decoder.dtype) - self.read(h).to(decoder.dtype)
        return add_in(h, einsum(change, decoder, "... rank, rank d_model -> ... d_model"))

    def config(self) -> dict[str, object]:
        return {"d_model": self.d_model, "rank": self.rank, "activation": self.activation, "k": self.k}

    def _activate(self, pre: Coordinates) -> Coordinates:
        match self.activation:
            case "relu":
                return pre.relu()
            case "jumprelu":
                return torch.where(pre > self.threshold.to(pre.dtype), pre, torch.zeros_like(pre))
            case "topk":
                assert self.k is not None
                top = pre.topk(self.k, dim=-1)
                return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        return pre
