"""A seeded synthetic bench: latent skills of models meet latent demands of data sets."""

from __future__ import annotations

import numpy as np

from septet.datamodules.scenarios.bench import Bench


def generate_scenarios(
    seed: int, models: int = 20, columns: int = 24, groups: int = 8, *, nested: bool = False
) -> Bench:
    """Errors ``exp(skill . demand + level + noise)`` with demands that the column features reveal in part.

    Args:
        seed: of the generator.
        models: rows.
        columns: columns, dealt to the groups in turn of three horizons.
        groups: data sets; columns of one share its demand.
        nested: each data set has one horizon only, so that a scenario can be left out.

    Returns:
        A bench of kind ``error``, complete, with three scenarios, four column and two model features.

    Raises:
        ValueError: fewer than 4 models, 2 groups, or fewer columns than groups.
    """
    if models < 4 or groups < 2 or columns < groups:
        raise ValueError(
            f"models {models}, columns {columns}, groups {groups}: at least 4 models, 2 groups, a column each"
        )
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=(models, 3)) * np.array([0.25, 0.15, 0.1])
    base = rng.normal(size=models) * 0.1
    demand = rng.normal(size=(groups, 3))
    owner = np.sort(np.arange(columns) % groups)
    horizon = np.array([int((owner[:j] == owner[j]).sum()) % 3 for j in range(columns)])
    if nested:
        horizon = owner % 3
    level = rng.normal(size=groups)[owner] + 0.2 * horizon
    noise = rng.normal(size=(models, columns)) * 0.03
    tilt = 0.1 * horizon[None, :] * skill[:, :1]
    values = np.exp(base[:, None] + skill @ demand[owner].T + tilt + level[None, :] + noise)
    seen = demand[owner] + rng.normal(size=(columns, 3)) * 0.2
    features = np.column_stack([seen, horizon / 2])
    model_features = np.column_stack([rng.normal(12, 1, models), skill[:, 0] + rng.normal(size=models) * 0.05])
    slow = 0.8 * (model_features[:, :1] - 12) + 0.3 * horizon[None, :] + rng.normal(size=(models, columns)) * 0.1
    return Bench(
        name="synthetic",
        models=[f"model{i:02d}" for i in range(models)],
        columns=[f"set{owner[j]}@{horizon[j]}#{j}" for j in range(columns)],
        group=[f"set{g}" for g in owner],
        scenario=[f"horizon{h}" for h in horizon],
        kind="error",
        values=values,
        column_features=features,
        model_features=model_features,
        latency=np.exp(slow),
    )
