"""Tables in, matplotlib Axes out: every figure of a study, a training run, a probe or a benchmark.

    from causal_reft import plots

    ax = plots.site_heatmap(result.table)      # or draw on Axes of your own: plots.site_heatmap(result.table, ax=ax)

Each function names the columns that it needs; intervals are found in `<value>_low` and `<value>_high`. Nothing here
knows a model.
"""

from causal_reft.plots.bars import ratio_bars
from causal_reft.plots.controls import random_controls
from causal_reft.plots.curves import curves_with_intervals, iia_against_rank, panel_grid
from causal_reft.plots.heatmaps import angle_matrix, behaviour_table, site_heatmap
from causal_reft.plots.live_heatmap import site_heatmap_html
from causal_reft.plots.points import points_with_intervals
from causal_reft.plots.probe import subspace_probe
from causal_reft.plots.tokens import token_strip, token_strip_html
from causal_reft.plots.training import training_curve

__all__ = [
    "angle_matrix",
    "behaviour_table",
    "curves_with_intervals",
    "iia_against_rank",
    "panel_grid",
    "points_with_intervals",
    "random_controls",
    "ratio_bars",
    "site_heatmap",
    "site_heatmap_html",
    "subspace_probe",
    "token_strip",
    "token_strip_html",
    "training_curve",
]
