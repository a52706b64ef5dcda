"""ALIGNMENTS: studies of a pretrained language model, one question each, from what it can do to a page with the answer.

`questions.QUESTIONS` is the table of studies; cities have several attributes each, and a file of their own (`cities`).
"""

from causal_reft.experiments.alignments.command import add_options, run_command
from causal_reft.experiments.alignments.questions import QUESTIONS, Question

__all__ = ["QUESTIONS", "Question", "add_options", "run_command"]
