"""Recall over a memory of results: pure torch (a declared reconstruction; specification, section 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from septet.datamodules.scenarios.tensors import Memory
from septet.kernels.recall import dense_recall

QUANTILES = (0.1, 0.5, 0.9)
LATENCY_QUANTILES = (0.5, 0.9)


class Prediction:
    """What the network says about Q columns.

    Attributes:
        score: ``(M, Q)``, lower is better.
        target: ``(M, C)`` the learnt mix of rank, z and loss of the memory.
        quantiles: ``(M, Q, 3)`` of z.
        latency: ``(M, Q, 2)`` log latency at .5 and .9.
        acceptance: ``(M,)`` standardised log(1 + stars).
        link: ``(M, Q)`` logit that the scenario supports the model.
        attention: ``(H, Q, C)``.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self.score, self.quantiles = tensors["score"], tensors["quantiles"]
        self.latency, self.link = tensors["latency"], tensors["link"]
        self.acceptance, self.attention = tensors["acceptance"], tensors["attention"]


class RecallNet(nn.Module):
    """Prior + gated multi-head attention over train columns + ``eps f(h_s, h_d, h_m)``.

    A model without any result has the level of the rank expected from its features as prior, or ``f`` alone.

    At the start ``eps`` is 0 and keys are a random isometry of the features: the network begins as a smooth,
    shrunk nearest-neighbour mean, and training moves it from there by little (an unrestrained one overfits a
    handful of columns).

    Args:
        shape: sizes from :attr:`Memory.shape`.
        hidden: width of embeddings.
        heads: attention heads.
        tau: distance scale of the gate back to the prior.
        dropout: on the encodings of f.
        gate: logit at which the gates of the heads start.
    """

    def __init__(
        self,
        shape: Mapping[str, int],
        hidden: int = 64,
        heads: int = 4,
        tau: float = 1.0,
        dropout: float = 0.5,
        gate: float = 1.0,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden {hidden} is not a multiple of heads {heads}")
        features, self.heads, self.tau = shape["features"], heads, tau
        width = hidden // heads
        self.project = nn.Parameter(torch.randn(heads, width, features) / math.sqrt(2 * max(features, 1) * width))
        self.bend = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, heads * width))
        self.scenario = nn.Embedding(shape["scenarios"], hidden, padding_idx=0)
        self.model = nn.Embedding(shape["models"], hidden)
        self.model_features = nn.Linear(shape["model_features"], hidden)
        self.column = nn.Linear(features, hidden)
        self.dropout = nn.Dropout(dropout)
        self.latency_head = nn.Sequential(
            nn.Linear(shape["model_features"] + features, hidden), nn.GELU(), nn.Linear(hidden, 2)
        )
        self.acceptance_head = nn.Linear(hidden, 1)
        self.temperature = nn.Parameter(torch.full((heads,), math.log(4.0)))
        self.gate = nn.Parameter(torch.full((heads,), float(gate)))
        self.mix = nn.Parameter(torch.tensor([0.0, 0.0, 2.0]))
        self.eps = nn.Parameter(torch.zeros(()))
        self.spread = nn.Parameter(torch.zeros(2))
        for parameter in self.bend[2].parameters():
            nn.init.zeros_(parameter)
        nn.init.normal_(self.scenario.weight, std=0.1)
        nn.init.normal_(self.model.weight, std=0.1)
        with torch.no_grad():
            self.scenario.weight[0] = 0

    def groups(self) -> list[dict[str, object]]:
        """Parameters with their learning-rate factors: the few scalars move ten times as fast as the matrices."""
        scalars = [self.temperature, self.gate, self.mix, self.eps, self.spread]
        rest = [p for p in self.parameters() if not any(p is s for s in scalars)]
        return [{"params": rest, "factor": 0.02}, {"params": scalars, "factor": 0.2, "weight_decay": 0.0}]

    def encode(self, features: Tensor, scenario: Tensor, extra: Tensor | None = None) -> Tensor:
        """Keys or queries per head ``(H, N, D)`` of columns."""
        flat = self.bend(features) + self.scenario(scenario)
        if extra is not None:
            flat = flat + extra
        bent = flat.reshape(len(features), self.heads, -1).transpose(0, 1)
        keys: Tensor = torch.einsum("hdf,nf->hnd", self.project, features) + bent
        return keys

    def target(self, values: Tensor) -> Tensor:
        """The learnt mix of (rank, z, loss) ``(..., 3) -> (...)``."""
        return (values * torch.softmax(self.mix, 0)).sum(-1)

    def forward(
        self,
        memory: Memory,
        columns: Tensor,
        allowed: Tensor,
        *,
        hidden_models: Tensor | None = None,
        hidden_scenarios: Tensor | None = None,
        graph: tuple[Tensor, Tensor] | None = None,
    ) -> Prediction:
        """Score all models on some columns.

        Args:
            memory: visible results.
            columns: ``(Q,)``.
            allowed: ``(Q, C)`` bool.
            hidden_models: ``(M,)`` bool, models whose records are hidden.
            hidden_scenarios: ``(Q,)`` bool, queries that do not know their scenario.
            graph: embeddings of columns ``(C, hidden)`` and models ``(M, hidden)`` from a graph encoder.
        """
        seen = memory.seen if hidden_models is None else memory.seen & ~hidden_models
        scenario = memory.scenario[columns]
        if hidden_scenarios is not None:
            scenario = scenario.masked_fill(hidden_scenarios, 0)
        extra = (None, None) if graph is None else (graph[0], graph[0][columns])
        keys = self.encode(memory.features, memory.scenario, extra[0])
        query = self.encode(memory.features[columns], scenario, extra[1])
        values = self.target(memory.values)
        prior, known = _prior(values, seen, allowed)
        if memory.stack is not None:
            prior = deal(prior, memory.stack[columns], known)
        anchored = known
        if memory.cold is not None:
            anchored = known | torch.isfinite(memory.cold[columns])
            prior = torch.where(anchored & ~known, level(prior, memory.cold[columns], known), prior)
        recalled, attention = dense_recall(
            query, keys, values, seen, prior,
            temperature=self.temperature, gate=self.gate, tau=self.tau, mask=allowed,
        )  # fmt: skip
        models = self.model_features(memory.models) + self.model.weight
        if graph is not None:
            models = models + graph[1]
        place = self.column(memory.features[columns]) + self.scenario(scenario)
        f = self.dropout(torch.tanh(place)) @ self.dropout(torch.tanh(models)).T / math.sqrt(models.shape[1])
        score = (recalled + torch.where(anchored, self.eps * f, f)).T
        low, high = functional.softplus(self.spread)
        return Prediction(
            score=score,
            quantiles=torch.stack([score - low, score, score + high], -1),
            latency=self._latency(memory, columns),
            acceptance=self.acceptance_head(models).squeeze(-1),
            link=f.T,
            attention=attention,
        )

    def _latency(self, memory: Memory, columns: Tensor) -> Tensor:
        """Log latency ``(M, Q, 2)``, the second quantile above the first."""
        m, q = memory.models, memory.features[columns]
        pairs = torch.cat([m[:, None].expand(-1, len(q), -1), q[None].expand(len(m), -1, -1)], -1)
        out = self.latency_head(pairs)
        return torch.stack([out[..., 0], out[..., 0] + functional.softplus(out[..., 1])], -1)


def _prior(values: Tensor, seen: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each model over the columns a query may read ``(Q, M)``, and where there is one.

    Models without any take the mean over all models.
    """
    held = seen.to(values.dtype)
    weight = allowed.to(values.dtype)
    count = weight @ held
    total = weight @ (values * held)
    overall = total.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp_min(1)
    return torch.where(count > 0, total / count.clamp_min(1), overall), count > 0


def deal(prior: Tensor, rank: Tensor, known: Tensor) -> Tensor:
    """The known models' own prior values, dealt in the order of another ranking (ties: by the prior itself).

    Args:
        prior: ``(Q, M)``.
        rank: ``(Q, M)``, lower is better; NaN counts as last.
        known: ``(Q, M)`` bool; the other models keep their prior.

    Returns:
        ``(Q, M)``: the scale of the prior in the order of ``rank``.
    """
    key = torch.where(known, rank.nan_to_num(nan=torch.inf), torch.full_like(rank, torch.inf))
    by_prior = torch.argsort(prior.detach().masked_fill(~known, torch.inf), dim=1, stable=True)
    order = by_prior.gather(1, torch.argsort(key.gather(1, by_prior), dim=1, stable=True))
    values = prior.masked_fill(~known, torch.inf).sort(1).values
    dealt = torch.empty_like(prior).scatter(1, order, values)
    return torch.where(known, dealt, prior)


def level(prior: Tensor, rank: Tensor, known: Tensor) -> Tensor:
    """Quantiles of the known models' prior values: what a model of that expected rank would have.

    Args:
        prior: ``(Q, M)``.
        rank: ``(Q, M)``, 0 best to 1 worst (clipped), NaN counts as 0.
        known: ``(Q, M)`` bool; a query without any keeps its prior.
    """
    values = prior.masked_fill(~known, torch.inf).sort(1).values
    last = (known.sum(1, keepdim=True) - 1).clamp_min(0)
    place = rank.nan_to_num().clamp(0, 1) * last
    low = place.floor().long()
    near, far = values.gather(1, low), values.gather(1, torch.minimum(low + 1, last))
    return torch.where(known.any(1, keepdim=True), near + (place - low) * (far - near), prior)


def training_hides(
    seed: int, epoch: int, columns: Tensor, models: int, hide_models: float, hide_scenario: float
) -> tuple[Tensor, Tensor]:
    """Masks of hidden models ``(M,)`` and scenarios ``(Q,)``: a pure function of (seed, epoch, columns)."""
    mixed = (seed * 1_000_003 + epoch * 7919 + int((columns * torch.arange(1, len(columns) + 1)).sum())) % 2**63
    generator = torch.Generator().manual_seed(mixed)
    rows = torch.rand(models, generator=generator) < hide_models
    return rows, torch.rand(len(columns), generator=generator) < hide_scenario
