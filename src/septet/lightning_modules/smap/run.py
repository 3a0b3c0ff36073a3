"""Fit on the train columns of one split and score its test columns, without a Trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.tensors import Query, allowed_columns, build_memory
from septet.lightning_modules.smap.model import RecallNet
from septet.lightning_modules.smap.module import SMAP


def fit_predict(bench: Bench, split: Split, *, seed: int = 0, **options: Any) -> NDArray[np.float64]:
    """Scores ``(M, len(split.test))`` of an ensemble, lower is better; bit-equal on repeats.

    Args:
        bench: the table; test results are removed before anything is computed.
        split: columns to train on and to score.
        seed: of weights and hiding.
        options: arguments of :class:`SMAP`.

    Raises:
        ValueError: an argument of SMAP out of range.
    """
    module = SMAP(**options)
    memory = build_memory(bench, split)
    module.add_prior(memory, bench, split)
    test = torch.tensor(split.test, dtype=torch.int64)
    train = torch.tensor([j for j in split.train if bool(memory.seen[j].any())], dtype=torch.int64)
    allowed = allowed_columns(memory, test) if not split.cold else _all_train(memory.seen, test)
    graph = None
    if module.hparams["encoder"] != "none":
        from septet.datamodules.scenarios.graph import assert_no_leak, build_graph

        graph = build_graph(bench, split)
        assert_no_leak(graph, bench, split)
    fork = torch.random.get_rng_state()
    try:
        scores = []
        for member in range(module.hparams["ensemble"]):
            torch.manual_seed(seed * 1009 + member)
            module.build(memory.shape, graph)
            _train(module, memory, train, seed * 1009 + member, graph)
            module.eval()
            with torch.no_grad():
                raw = torch.empty(0)
                scores.append(module.predict_query(Query(memory, test, allowed, raw), graph).score.double())
    finally:
        torch.random.set_rng_state(fork)
    return np.asarray(np.round(torch.stack(scores).mean(0).numpy(), 9))


def _all_train(seen: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Cold models: a column may read itself, for only cold rows are scored."""
    return seen.any(1)[None].expand(len(test), -1)


def _train(module: SMAP, memory: Any, train: torch.Tensor, seed: int, graph: Any) -> None:
    module.train()
    steps, net = module.hparams["steps"], module.net
    assert isinstance(net, RecallNet)
    if not steps:
        return
    optimizer, schedule = module.make_optimizer(steps)
    generator = torch.Generator().manual_seed(seed)
    count = 96 if memory.models.shape[0] <= 100 else 24
    if graph is not None:  # results of queried columns leave the graph: half of them must stay
        count = min(count, max(1, len(train) // 2))
    for step in range(steps):
        columns = train[torch.randperm(len(train), generator=generator)[:count]]
        query = Query(memory, columns, allowed_columns(memory, columns), torch.empty(0), step)
        loss = module.loss_terms(query, seed, graph)["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
