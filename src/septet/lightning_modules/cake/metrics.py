"""Scores of long-context answers: LongBench (arXiv 2308.14508), RULER (arXiv 2404.06654), and the needle grid."""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from importlib.util import find_spec

import torch
from torch import Tensor
from torchmetrics import Metric

QA = frozenset(["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa"])
QA_ZH = frozenset({"multifieldqa_zh"})
ROUGE = frozenset(["gov_report", "qmsum", "multi_news", "samsum"])
ROUGE_ZH = frozenset({"dureader", "vcsum"})
CLASSES = frozenset({"trec", "lsht"})
CODE = frozenset({"lcc", "repobench-p"})
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
_warned_jieba = False


def _english(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    bare = "".join(ch for ch in text.lower() if ch not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _chinese(text: str) -> list[str]:
    """Words by jieba where it is installed, else characters (with one warning)."""
    global _warned_jieba
    marks = (
        string.punctuation
        + "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、《》「」『』【】〔〕〖〗“”‘’…—"
    )
    if find_spec("jieba") is not None:
        import jieba  # type: ignore[import-not-found]

        parts = list(jieba.cut(text, cut_all=False))
    else:
        if not _warned_jieba:
            _warned_jieba = True
            warnings.warn("jieba is not installed: Chinese F1 counts characters, not words", stacklevel=3)
        parts = list(text)
    bare = ("".join(ch for ch in part.lower() if ch not in marks and not ch.isspace()) for part in parts)
    return [part for part in bare if part]


def _overlap_f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    common = sum((Counter(prediction) & Counter(answer)).values())
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def qa_f1(prediction: str, answer: str) -> float:
    """Token F1 (multiset overlap) after SQuAD's normalisation, in [0, 1]."""
    return _overlap_f1(_english(prediction), _english(answer))


def qa_f1_zh(prediction: str, answer: str) -> float:
    """Token F1 for Chinese; words if jieba is installed, else characters."""
    return _overlap_f1(_chinese(prediction), _chinese(answer))


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for item in a:
        previous = 0
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], previous + 1 if item == other else max(row[j], row[j - 1])
    return row[-1]


def _lcs_f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    common = _lcs(prediction, answer)
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def rouge_l(prediction: str, answer: str) -> float:
    """ROUGE-L F1 on white-space tokens, in [0, 1]."""
    return _lcs_f1(prediction.split(), answer.split())


def rouge_l_zh(prediction: str, answer: str) -> float:
    """ROUGE-L F1 on Chinese words (characters without jieba)."""
    return _lcs_f1(_chinese(prediction), _chinese(answer))


def classification_score(prediction: str, answer: str, all_classes: Sequence[str]) -> float:
    """1 / (classes named in the text) if the true one is named; proper substrings of the true class do not count."""
    named = [name for name in all_classes if name in prediction]
    named = [name for name in named if not (name in answer and name != answer)]
    return 1.0 / len(named) if answer in named else 0.0


def count_score(prediction: str, answer: str) -> float:
    """Share of the integers in the prediction that equal the answer."""
    numbers = re.findall(r"\d+", prediction)
    return sum(number == str(answer) for number in numbers) / len(numbers) if numbers else 0.0


def retrieval_score(prediction: str, answer: str) -> float:
    """Share of the integers in the prediction that equal the paragraph number of the answer (English or Chinese)."""
    found = re.search(r"(?:Paragraph|段落)\s*(\d+)", answer)
    return count_score(prediction, found.group(1)) if found else 0.0


def edit_similarity(prediction: str, answer: str) -> float:
    """Similarity of the first line of code (without back ticks, ``#`` and ``//``), difflib's ratio in [0, 1]."""
    lines = prediction.lstrip("\n").split("\n")
    first = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return SequenceMatcher(None, first, answer, autojunk=False).ratio()


def string_match(prediction: str, answers: str | Sequence[str]) -> float:
    """Share of the expected strings found in the prediction, case-insensitive (RULER)."""
    wanted = [answers] if isinstance(answers, str) else list(answers)
    text = prediction.lower()
    return sum(answer.lower() in text for answer in wanted) / len(wanted) if wanted else 0.0


def score_answer(task: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] = ()) -> float:
    """Score of a prediction under the metric of its task: LongBench sets by name, everything else by string match.

    LongBench takes the best over the references; trec, triviaqa, samsum and lsht count the first line only.
    """
    if task in FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric: Callable[[str, str], float] | None = None
    for names, function in (
        (QA, qa_f1),
        (QA_ZH, qa_f1_zh),
        (ROUGE, rouge_l),
        (ROUGE_ZH, rouge_l_zh),
        (CODE, edit_similarity),
    ):
        metric = function if task in names else metric
    if task == "passage_count":
        metric = count_score
    elif task.startswith("passage_retrieval"):
        metric = retrieval_score
    elif task in CLASSES:
        return max((classification_score(prediction, a, all_classes) for a in answers), default=0.0)
    if metric is None:
        return string_match(prediction, answers)
    return max((metric(prediction, answer) for answer in answers), default=0.0)


class NeedleGrid(Metric):
    """Mean score by context length and needle depth.

    Args:
        depth_bins: equal bins of the depth in [0, 1].
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, depth_bins: int = 5) -> None:
        super().__init__()
        if depth_bins < 1:
            raise ValueError(f"depth_bins = {depth_bins} must be at least 1")
        self.depth_bins = depth_bins
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, depth: Tensor, length: Tensor, score: Tensor) -> None:
        """Add answers: depth ``(N,)`` in [0, 1], length ``(N,)`` tokens, score ``(N,)`` in [0, 1]."""
        self.rows.append(torch.stack([depth.double(), length.double(), score.double()], 1))  # type: ignore[union-attr,operator]

    def compute(self) -> tuple[Tensor, list[int]]:
        """Matrix ``(depth_bins, lengths)`` of means, NaN where nothing was asked, and the sorted lengths."""
        if not len(self.rows):  # type: ignore[arg-type]
            return torch.empty(self.depth_bins, 0), []
        rows = torch.cat(list(self.rows)) if isinstance(self.rows, list) else self.rows
        assert isinstance(rows, Tensor)
        lengths = sorted({int(n) for n in rows[:, 1].tolist()})
        bins = (rows[:, 0] * self.depth_bins).long().clamp(0, self.depth_bins - 1)
        grid = torch.full((self.depth_bins, len(lengths)), float("nan"))
        for j, length in enumerate(lengths):
            for i in range(self.depth_bins):
                chosen = rows[(rows[:, 1] == length) & (bins == i), 2]
                if len(chosen):
                    grid[i, j] = chosen.mean()
        return grid, lengths


class LongBenchScore(Metric):
    """Mean score in [0, 1] of answers under their tasks' metrics (LongBench prints it times 100)."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, task: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] = ()) -> None:
        """Add one prediction."""
        self.total += score_answer(task, prediction, answers, all_classes)
        self.count += 1

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.count.clamp(min=1)
