"""Cross-modal ranking: protocols, exact evaluators, re-ranking."""

from septet.kernels.ranking.evaluate import rank_distances, rank_features, rank_trials
from septet.kernels.ranking.protocols import LLCM, LLCM_STRICT, REGDB, SYSU, Cmc, Exclude, Protocol, Ranking, Ties
from septet.kernels.ranking.reranking import check_rerank, rerank

__all__ = [
    "LLCM",
    "LLCM_STRICT",
    "REGDB",
    "SYSU",
    "Cmc",
    "Exclude",
    "Protocol",
    "Ranking",
    "Ties",
    "check_rerank",
    "rank_distances",
    "rank_features",
    "rank_trials",
    "rerank",
]
