"""Fit on the train columns of one split and score its test columns, without a Trainer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septet.datamodules.scenarios.bench import Bench
from septet.datamodules.scenarios.splits import Split
from septet.datamodules.scenarios.tensors import Memory, Query, allowed_columns, build_memory
from septet.lightning_modules.smap.baselines import check_probes
from septet.lightning_modules.smap.model import RecallNet
from septet.lightning_modules.smap.module import SMAP
from septet.lightning_modules.smap.probing import Probes, check, order_revealed


def fit_predict(
    bench: Bench, split: Split, *, seed: int = 0, probes: Probes | None = None, **options: Any
) -> NDArray[np.float64]:
    """Scores ``(M, len(split.test))`` of an ensemble, lower is better; bit-equal on repeats.

    Args:
        bench: the table; test results are removed before anything is computed.
        split: columns to train on and to score.
        seed: of weights and hiding.
        probes: {test column: models whose result on it is known}. These results enter the prior, and as a record of
            the column itself the memory (not a graph encoder); the probed models keep the order of their results.
        options: arguments of :class:`SMAP`.

    Raises:
        ValueError: an argument of SMAP out of range, probes that do not fit, or probes of a cold split.
    """
    module = SMAP(**options)
    if probes:
        check(bench, split, probes)
    memory = build_memory(bench, split)
    module.add_prior(memory, bench, split, probes=probes)
    test = torch.tensor(split.test, dtype=torch.int64)
    train = torch.tensor([j for j in split.train if bool(memory.seen[j].any())], dtype=torch.int64)
    allowed = allowed_columns(memory, test) if not split.cold else _all_train(memory.seen, test)
    asked = memory
    if probes:
        asked = _reveal(memory, bench, probes)
        allowed[torch.arange(len(test)), test] = asked.seen[test].any(1)
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
                scores.append(module.predict_query(Query(asked, test, allowed, raw), graph).score.double())
    finally:
        torch.random.set_rng_state(fork)
    found = np.asarray(torch.stack(scores).mean(0).numpy())
    return np.asarray(np.round(order_revealed(found, bench, split.test, probes) if probes else found, 9))


def _reveal(memory: Memory, bench: Bench, probes: Probes) -> Memory:
    """The memory with a record per probed column: the probed models' own means, dealt in the order of their results.

    Means of train columns, for a few results alone say nothing of where they stand among all models.
    """
    seen, values = memory.seen.clone(), memory.values.clone()
    held = memory.seen.to(values.dtype)[..., None]
    total, count = (memory.values * held).sum(0), held.sum(0)
    mean = torch.where(count > 0, total / count.clamp_min(1), total.sum(0) / count.sum(0).clamp_min(1))
    for column, models in probes.items():
        chosen, revealed = check_probes(bench, column, models)
        order = [chosen[i] for i in np.lexsort((np.asarray(chosen), revealed))]
        values[column, order] = mean[order].sort(0).values
        seen[column, order] = True
    return dataclasses.replace(memory, seen=seen, values=values)


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
