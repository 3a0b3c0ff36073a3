"""Temporal graphs: streams of interactions, their protocols, and batches of links."""

from septet.datamodules.temporal_graph.batches import LinkBatch
from septet.datamodules.temporal_graph.datamodule import TemporalGraphEvents
from septet.datamodules.temporal_graph.events import EventStream
from septet.datamodules.temporal_graph.negatives import NegativeSampler
from septet.datamodules.temporal_graph.readers import read_events
from septet.datamodules.temporal_graph.splits import Splits, dyglib_split, tgb_split
from septet.datamodules.temporal_graph.structure import StructureSpec
from septet.datamodules.temporal_graph.synthetic import powerlaw_events, synthetic_events

__all__ = [
    "EventStream",
    "LinkBatch",
    "NegativeSampler",
    "Splits",
    "StructureSpec",
    "TemporalGraphEvents",
    "dyglib_split",
    "powerlaw_events",
    "read_events",
    "synthetic_events",
    "tgb_split",
]
