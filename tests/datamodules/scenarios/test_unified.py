"""The unified table: sizes, records with units, and the graph over all of it."""

from __future__ import annotations

import numpy as np
import pytest

from septet.datamodules.scenarios.records import validate_record
from septet.datamodules.scenarios.unified import unified_graph, unified_records, unified_table


def test_the_table_has_the_recorded_sizes():
    table = unified_table()
    sizes = [len(table[name]) for name in ("scenarios", "datasets", "models", "components", "value", "component")]
    assert sizes == [45, 204, 1709, 475, 10531, 4887]
    assert {"libcity", "openmmlab", "fastreid"} < set(table["sources"].tolist())


def test_records_are_valid_and_carry_unit_direction_and_source():
    found = [validate_record(r) for r in unified_records("person_reid")]
    assert len(found) == 39
    assert {r["scenario"]["unit"] for r in found} == {"percent"}
    assert {r["scenario"]["direction"] for r in found} == {"max"}
    assert all(r["provenance"]["source"].startswith("fastreid: ") for r in found)
    flow = unified_records("optical flow ESTIMATION")
    assert {r["scenario"]["direction"] for r in flow} == {"min"}
    assert unified_records("no such task") == []


def test_another_version_of_a_data_set_stays_in_its_group():
    found = [r["dataset"] for r in unified_records("traffic_flow_step3")]
    assert {"name": "PEMS04", "group": "PEMS04", "version": "libcity"} in found


def test_quarantined_rows_are_no_records():
    table = unified_table()
    names = [str(n) for n in table["scenarios"]]
    for name in ("gift_Energy", "crowd_flow_grid_step3"):
        kept = (table["scenario"] == names.index(name)) & ~table["quarantine"]
        assert len(unified_records(name)) == int(kept.sum())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_the_graph_holds_all_nodes_and_lends_no_result_of_a_set_left_out():
    pytest.importorskip("torch_geometric")
    table, graph = unified_table(), unified_graph()
    assert [len(graph[n].id) for n in ("scenario", "dataset", "model", "component")] == [45, 204, 1709, 475]
    assert graph["dataset", "evaluated", "model"].edge_index.shape[1] == int((~table["quarantine"]).sum())
    assert bool((graph["dataset", "evaluated", "model"].edge_attr[:, 1] <= 1).all())
    less = unified_graph(["PEMS04"])
    gone = [i for i, n in enumerate(table["datasets"]) if str(n).partition("@")[0] == "PEMS04"]
    assert len(gone) == 2
    assert not np.isin(less["dataset", "evaluated", "model"].edge_index[0].numpy(), gone).any()
    with pytest.raises(ValueError, match="no data set 'MOON'"):
        unified_graph(["MOON"])
