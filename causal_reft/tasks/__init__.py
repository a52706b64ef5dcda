"""Ready-made questions: a causal model, a way to write it as a prompt, and labels that tests check by brute force."""

from causal_reft.tasks.addition import addition
from causal_reft.tasks.causalgym import load_causalgym_pairs, load_causalgym_task
from causal_reft.tasks.equality import HYPOTHESES, equality_examples, equality_inputs, equality_labels, hypothesis
from causal_reft.tasks.equality_network import EqualityNetwork, Recipe, train_network
from causal_reft.tasks.ioi import ioi
from causal_reft.tasks.mib import load_mib
from causal_reft.tasks.price_tagging import price_tagging
from causal_reft.tasks.pronouns import pronouns
from causal_reft.tasks.ravel import load_ravel
from causal_reft.tasks.ravel_scores import RavelScores, ravel_scores, with_own_answers

__all__ = [
    "HYPOTHESES",
    "EqualityNetwork",
    "RavelScores",
    "Recipe",
    "addition",
    "equality_examples",
    "equality_inputs",
    "equality_labels",
    "hypothesis",
    "ioi",
    "load_causalgym_pairs",
    "load_causalgym_task",
    "load_mib",
    "load_ravel",
    "price_tagging",
    "pronouns",
    "ravel_scores",
    "train_network",
    "with_own_answers",
]
