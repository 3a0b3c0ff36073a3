import math

import pytest
import torch

from septet.lightning_modules.cake import LongBenchScore, NeedleGrid
from septet.lightning_modules.cake.metrics import (
    classification_score,
    count_score,
    edit_similarity,
    qa_f1,
    retrieval_score,
    rouge_l,
    score_answer,
    string_match,
)


def test_qa_f1():
    assert qa_f1("The Eiffel Tower!", "eiffel tower") == 1.0
    assert qa_f1("in Paris, France", "Paris") == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert qa_f1("b b", "b") == pytest.approx(2 / 3)
    assert qa_f1("", "x") == 0.0
    assert qa_f1("the a an", "x") == 0.0


def test_rouge_l():
    assert rouge_l("the cat sat on the mat", "the cat sat on the mat") == 1.0
    assert rouge_l("a b c d", "a c x") == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert rouge_l("", "a") == 0.0


def test_classification():
    classes = ["Animal", "Other animal", "City"]
    assert classification_score("It is a City", "City", classes) == 1.0
    assert classification_score("City or Animal", "City", classes) == 0.5
    assert classification_score("Animal", "City", classes) == 0.0
    nested = ["food", "fast food", "drink"]
    assert classification_score("fast food", "fast food", nested) == 1.0


def test_counts_and_retrieval():
    assert count_score("There are 7 of 12, so 7", "7") == pytest.approx(2 / 3)
    assert count_score("none", "7") == 0.0
    assert retrieval_score("Paragraph 3", "Paragraph 3") == 1.0
    assert retrieval_score("段落27和28", "段落27") == 0.5
    assert retrieval_score("3", "no number") == 0.0


def test_code_and_strings():
    assert edit_similarity("```\nreturn x\n", "return x") == 1.0
    assert edit_similarity("# comment\nfoo", "foo") == 1.0
    assert 0 < edit_similarity("return y", "return x") < 1
    assert string_match("The MAGIC is abc", ["magic", "xyz"]) == 0.5
    assert string_match("1234567.", "1234567") == 1.0
    assert string_match("anything", []) == 0.0


def test_scores_by_task():
    assert score_answer("trec", "City\nAnimal", ["City"], ["City", "Animal"]) == 1.0
    assert score_answer("qasper", "yes", ["no", "Yes"]) == 1.0
    assert score_answer("triviaqa", "Rome\nParis", ["Rome"]) == 1.0
    assert score_answer("passage_count", "4", ["4"]) == 1.0
    assert score_answer("passage_retrieval_zh", "段落4", ["段落4"]) == 1.0
    assert score_answer("lcc", "x = 1", ["x = 1"]) == 1.0
    assert score_answer("gov_report", "a b", ["a b", "c"]) == 1.0
    assert score_answer("needle", "it is 7", ["7"]) == 1.0


def test_chinese_f1_counts_characters_without_jieba():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert score_answer("multifieldqa_zh", "北京。", ["北京"]) == 1.0
        assert score_answer("dureader", "北京", ["上海"]) == 0.0


def test_needle_grid():
    grid = NeedleGrid(depth_bins=2)
    grid.update(torch.tensor([0.0, 0.4, 1.0]), torch.tensor([100, 100, 200]), torch.tensor([1.0, 0.0, 1.0]))
    matrix, lengths = grid.compute()
    assert lengths == [100, 200]
    assert matrix[0, 0] == 0.5
    assert matrix[1, 1] == 1.0
    assert math.isnan(matrix[1, 0])
    with pytest.raises(ValueError, match="depth_bins = 0"):
        NeedleGrid(depth_bins=0)


def test_longbench_score():
    metric = LongBenchScore()
    metric.update("qasper", "yes", ["yes"])
    metric.update("qasper", "yes", ["no"])
    assert metric.compute() == 0.5
