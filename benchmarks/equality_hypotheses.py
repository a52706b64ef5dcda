"""Are two hypotheses about hierarchical equality told apart? A decision for each of 20 networks, and its error rate.

    python benchmarks/equality_hypotheses.py [--networks 20]

True: "left only", the network holds whether w = x. False: "identity of first argument", it holds w itself. For each
network and hypothesis one subspace of 8 of 16 dimensions is learned after the first layer. The hypothesis is called
supported where the score separates as reports say it: the 95 % interval of its separation from the best control (no
edit, 100 random subspaces, PCA) lies above zero and p < 0.05. An error is a supported false hypothesis or an
unsupported true one. Beside it a stricter rule: the score must also go more than half of the way from that control to
1.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

import causal_reft as cr
from causal_reft.alignment.statistics import binomial_interval
from causal_reft.tasks.equality import equality_counterfactuals, equality_inputs, hypothesis
from causal_reft.tasks.equality_network import train_network
from causal_reft.training import Recipe

HYPOTHESES = ("left only", "identity of first argument")
RECIPE = Recipe(epochs=10, batch_size=512, lr=2e-2, schedule="cosine")


def decide(seed: int, name: str, network: torch.nn.Module) -> dict[str, object]:
    """One fit and its decision."""
    what = hypothesis(name)
    (variable,) = what.variables
    edit = cr.Interchange(cr.Site.at("blocks.0"), cr.Subspace(16, 8, seed), cr.Collect())
    found = cr.Alignment(what.causal_model, cr.InterventionGraph(**{variable: edit}))
    encoding = cr.TensorEncoding(lambda data: equality_inputs(data, seed), output="answer")
    train, test = (equality_counterfactuals(what, n, 2 * seed + i) for i, n in enumerate((12_000, 1_000)))
    found.fit(network, train, encoding, recipe=RECIPE, progress=False)
    score = found.iia(network, test, encoding, seed=seed)
    halfway = score.separation.value > 0.5 * (1 - (float(score) - score.separation.value))
    return {
        "network": seed,
        "hypothesis": name,
        "true": what.is_true,
        "iia": float(score),
        "best_control": score.separation.best_control,
        "separation": score.separation.value,
        "low": score.separation.low,
        "supported": score.separation.low > 0 and score.separation.p < 0.05,
        "halfway": score.separation.low > 0 and halfway,
    }


def main() -> None:
    """Train, decide, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(options.networks):
        trained = train_network(seed)
        rows += [decide(seed, name, trained.network) | {"accuracy": trained.accuracy} for name in HYPOTHESES]
        print(rows[-2], rows[-1], sep="\n", flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    for name, part in table.groupby("hypothesis", sort=False):
        for rule in ("supported", "halfway"):
            errors = int((part[rule] != part["true"]).sum())
            low, high = binomial_interval(errors, len(part))
            print(f"{name}, {rule}: {errors} of {len(part)} decisions wrong [{low:.3f}, {high:.3f}]")
        print(f"{name}: IIA {part['iia'].mean():.3f}, {part['iia'].min():.3f} to {part['iia'].max():.3f}")
    wide = table.pivot(index="network", columns="hypothesis", values="separation")
    swapped = int((wide[HYPOTHESES[0]] <= wide[HYPOTHESES[1]]).sum())
    low, high = binomial_interval(swapped, len(wide))
    print(f"the false hypothesis separates more in {swapped} of {len(wide)} networks [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
