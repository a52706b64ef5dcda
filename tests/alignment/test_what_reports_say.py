"""A report claims what was counted, chooses by what was asked, and names what stands beside the best score."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from causal_reft.alignment import Controls, IllusionReport, Sampling, Study, StudyResult, TensorEncoding
from causal_reft.alignment.cells import LEFT_OUT
from causal_reft.alignment.illusion import off_manifold
from causal_reft.causal import CausalModel, CounterfactualDataset, Splits, Task, Template
from causal_reft.errors import StudyError
from causal_reft.featurizers import Subspace
from causal_reft.sites import Site
from causal_reft.training import Recipe
from tests import words
from tests.alignment import planted
from tests.alignment.small import SPLITS, small_study

CHEAP = Controls(random=5, seeds=0, ladder=False, illusion=False)
ENTITIES = 36


def cities() -> CausalModel:
    """Entities with two attributes of six values, and a prompt that asks for one of them."""
    return CausalModel(
        inputs={"entity": range(ENTITIES), "asked": ("tens", "ones")},
        mechanisms={
            "tens": lambda entity: entity // 6,
            "ones": lambda entity: entity % 6,
            "answer": lambda tens, ones, asked: np.where(asked == "tens", tens, ones),
        },
        averaged_by=("asked",),
    )


class Cities(nn.Module):
    """entity: both attributes of an entity, one-hot; `elsewhere` holds the entity too, and is not read."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.arange(ENTITIES)
        both = torch.cat([torch.eye(6)[numbers // 6], torch.eye(6)[numbers % 6]], 1)
        self.entity, self.elsewhere = nn.Linear(ENTITIES, 12, bias=False), nn.Linear(ENTITIES, 12, bias=False)
        self.entity.weight, self.elsewhere.weight = nn.Parameter(both.T.clone()), nn.Parameter(both.T.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, asked = self.entity(x[:, :ENTITIES]) + 0 * self.elsewhere(x[:, :ENTITIES]), x[:, ENTITIES:]
        return 5 * torch.where(asked > 0, h[:, :6], h[:, 6:])


def encoded(data: CounterfactualDataset) -> dict[str, torch.Tensor]:
    return {
        run: torch.cat(
            [
                torch.eye(ENTITIES)[torch.tensor(frame["entity"].to_numpy(int))],
                torch.tensor((frame["asked"] == "tens").to_numpy(float)).float()[:, None],
            ],
            1,
        )
        for run, frame in data.runs.items()
    }


def city_study(metric: str, sites: tuple[str, ...] = ("entity",)) -> StudyResult:
    return Study(
        Cities(),
        TensorEncoding(encoded, output="answer"),
        task=cities(),
        variable="tens",
        sites=[Site.at(site) for site in sites],
        featurizer=Subspace.of_rank(5),
        seeds=[0],
        sampling=Sampling(rows=(192, 96, 96), fractions=(0.3, 0.2, 0.5), strategy="uniform"),
        recipe=Recipe(epochs=1 if sites == ("elsewhere",) else 25, batch_size=48, lr=3e-2),
        controls=CHEAP,
        metric=metric,
    ).run(progress=False)


@pytest.fixture(scope="module")
def disentangled() -> StudyResult:
    return city_study("disentangle")


@pytest.fixture(scope="module")
def plain() -> StudyResult:
    return quick()


def quick(**changes: object) -> StudyResult:
    """One site, one seed, few controls."""
    return small_study(None, seeds=[0], controls=CHEAP, sites=[planted.SITE], **changes).run(progress=False)


def test_what_splits_share_is_counted_before_the_report_says_that_they_share_nothing(plain):
    assert "which share no setting with training or selection" in plain.report() and "not new" not in repr(plain)
    leaking = Splits(SPLITS.train, SPLITS.select, SPLITS.train, dropped=0, by=SPLITS.by)
    result = quick(data=leaking)
    counted = len(SPLITS.train)
    assert f"Its rows are not new: training and report share {2 * counted} settings, {counted} pairs." in repr(result)
    assert "share no" not in result.report()
    assert result.shared["left"]["pairs"].tolist() == [0, counted, 0]


def test_the_metric_rules_selection_controls_separation_and_headline(disentangled):
    best, controls = disentangled.best(), disentangled.controls.set_index("control")
    assert best.selection == pytest.approx(1, abs=0.05) and best.disentangle == pytest.approx(1, abs=0.05)
    assert controls.loc["full_patch", ["cause", "isolate"]].tolist() == [1, 0], "a swap of the whole leaks everything"
    assert controls.loc["no_edit", ["cause", "isolate"]].tolist() == [0, 1]
    assert best.full_patch == best.no_edit == 0.5
    assert best.separation == pytest.approx(best.disentangle - best.control)
    assert best.disentangle_low <= best.disentangle <= best.disentangle_high
    text = repr(disentangled)
    assert (
        "cells separate from their best control by disentangle" in text
        and f"; disentangle {best.disentangle:.3f} [" in text
    )
    assert "There: whole vector 0.500, PCA" in text and "whole vector 1.000/0.000" in text


def test_a_best_site_of_cause_zero_is_said_in_the_headline():
    result = city_study("iia", sites=("elsewhere",))
    assert result.best().cause == 0 and result.best().iia > 0.3
    assert "Its cause is 0: no answer changes that must" in repr(result)


def test_where_nothing_separates_but_the_whole_vector_works_the_headline_calls_it_localisation(disentangled):
    tables, low = disentangled.tables, {"separation_low": -0.1, "p_corrected": 1.0}
    shown = dataclasses.replace(tables)
    object.__setattr__(shown, "grid", tables.grid.assign(**low))
    text = repr(StudyResult(shown))
    assert "nothing separates from the controls by disentangle" in text
    assert "That is localisation by itself: the whole vector by +1.000" in text
    absent = quick(model=planted.Planted("absent", 0))
    assert "nothing separates" in repr(absent) and "localisation" not in repr(absent)


def test_a_metric_that_the_rows_cannot_measure_is_refused():
    with pytest.raises(StudyError, match=r"metric='disentangle' cannot be measured on the 'select' rows.*task="):
        small_study(None, metric="disentangle").prepare(progress=False)
    with pytest.raises(StudyError, match="metric='isolate' is none to choose by"):
        small_study(None, metric="isolate")


def test_nothing_in_a_report_is_nan_and_a_score_above_all_random_subspaces_is_called_so(disentangled, plain):
    text = disentangled.report()
    assert "the score is above all 5 random subspaces" in text and "nan" not in text.lower()
    text = plain.report()
    assert "isolate not measured (the data has no such rows)" in text and "permuted labels not measured" in text


def test_few_different_states_have_no_distance_to_the_natural_ones():
    states = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    few, many = states.repeat(40, 1), torch.randn(480, 16, generator=torch.Generator().manual_seed(1))
    assert all(np.isnan(off_manifold(few, few[:10])))
    assert off_manifold(many, many[:100])[1] == pytest.approx(1, abs=0.1)


def test_an_illusion_report_of_few_states_says_so_and_never_that_they_look_natural():
    rows = SPLITS.test[np.arange(12)]
    found = planted.alignment().illusion(planted.truth(), rows, planted.ENCODING)
    assert np.isnan(found.far) and "12 different natural states in 16 dimensions" in found.text
    assert "look like states" not in found.text


def test_records_have_the_weight_of_each_row_in_its_mean(disentangled):
    records = disentangled.records
    sums = records.groupby("kind")["weight"].sum()
    assert sums["cause"] == pytest.approx(1) and sums["isolate"] == pytest.approx(1)
    scored = records[records["kind"] == "isolate"]
    expected = float((scored["weight"] * scored["iia"]).sum())
    assert disentangled.best().isolate == pytest.approx(expected)
    assert isinstance(disentangled.shared["tens"], pd.DataFrame)


def test_networks_with_shuffled_weights_choose_among_the_tasks_answers_or_are_left_out(tmp_path):
    tokenizer = words.tokenizer()
    animals = CausalModel(
        inputs={"animal": ("cat", "dog"), "act": ("sees", "hears")},
        mechanisms={"answer": lambda animal: animal.copy()},
    )
    said = {"cat": "owl", "dog": "tower"}
    template, sites = Template("the {animal} {act}"), [Site(1, positions="last")]
    task = Task("animals", animals, template, said, variables=("animal",))
    text = {"tokenizer": tokenizer, "sites": sites, "featurizer": Subspace.of_rank(2), "seeds": [0]}
    assert Study(words.model(), task=task, **text).shuffled == "choices"
    assert Study(words.model(), task=task, match="choices", **text).shuffled == "choices"
    data = task.counterfactuals("animal", 8, seed=0)
    left_out = Study(words.model(), data=Splits(data, data, data, 0, ()), **text)
    assert left_out.shuffled == LEFT_OUT and "shuffled weights" not in repr(left_out)
    plain = small_study(tmp_path, seeds=range(1))
    assert plain.shuffled == "vocabulary" and "on shuffled weights" in repr(plain)


@pytest.mark.parametrize(
    ("read", "whole", "said"),
    [
        (0.75, 0.3, ["part that is read does 50% of it alone", "whole vector does less than half of it:"]),
        (0.6, 0.9, ["part that is read does less than half", "But the whole vector does 80% of it"]),
        (0.6, 0.5, ["less than half of it too: this is the mark of an illusion"]),
    ],
)
def test_an_illusion_report_says_how_much_each_part_does(read: float, whole: float, said: list[str]) -> None:
    scores = {"subspace": 1.0, "part read": read, "part not read": 0.5, "whole vector": whole, "no edit": 0.5}
    effects = pd.DataFrame([{"patch": name, "iia": x, "iia_low": x, "iia_high": x} for name, x in scores.items()])
    text = IllusionReport("v", "rows", 0.2, effects, float("nan"), float("nan"), (2, 8), pd.DataFrame()).text
    assert all(part in text for part in said)
