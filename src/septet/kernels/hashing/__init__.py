"""Co-neighbour hash memory and temporal neighbour index (CNE-N, KDD 2024): reference, torch and native backends."""

from septet.kernels.hashing.memory import HashNeighborMemory
from septet.kernels.hashing.neighbors import NodeSequence, TemporalNeighborIndex
from septet.kernels.hashing.slots import hash_slots
from septet.kernels.hashing.structure import (
    StructureFeatures,
    co_occurrence,
    group_offsets,
    structure_pass,
)

__all__ = [
    "HashNeighborMemory",
    "NodeSequence",
    "StructureFeatures",
    "TemporalNeighborIndex",
    "co_occurrence",
    "group_offsets",
    "hash_slots",
    "structure_pass",
]
