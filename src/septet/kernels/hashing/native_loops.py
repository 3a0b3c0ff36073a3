"""The numba loops behind :mod:`septet.kernels.hashing.native`; imported only where numba is installed."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# ruff: noqa: ANN001, ANN201, D103, PLR0913

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"cache": True, "nogil": True, "boundscheck": False}


@njit(inline="always", **_OPTIONS)
def _encode_position(table, short, u, v, s, out):
    own, other, row = table[u], table[v], table[s]
    own_short = other_short = own_long = other_long = np.int32(0)
    for c in range(short):
        x = row[c]
        own_short += np.int32((own[c] == x) & (x != 0))
        other_short += np.int32((other[c] == x) & (x != 0))
    for c in range(short, table.shape[1]):
        x = row[c]
        own_long += np.int32((own[c] == x) & (x != 0))
        other_long += np.int32((other[c] == x) & (x != 0))
    out[0], out[1], out[2], out[3] = own_long, other_long, own_short, other_short
    out[4] = s == v


@njit(**_OPTIONS)
def encode_side(table, short, own, other, ids, out):
    for b in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            _encode_position(table, short, own[b], other[b], ids[b, j], out[b, j])


@njit(inline="always", **_OPTIONS)
def _write(table, columns, row, x, mask):
    if mask and (row == 0 or x == 0):
        return
    table[row, columns[x, 0]] = x
    table[row, columns[x, 1]] = x


@njit(inline="always", **_OPTIONS)
def _phase(table, columns, phase, u, v, src_ids, dst_ids, src_len, dst_len, mask):
    if phase == 0:
        for j in range(dst_len):
            _write(table, columns, u, dst_ids[j], mask)
    elif phase == 1:
        for j in range(src_len):
            _write(table, columns, v, src_ids[j], mask)
    elif phase == 2:
        for j in range(src_len):
            _write(table, columns, src_ids[j], v, mask)
    else:
        for j in range(dst_len):
            _write(table, columns, dst_ids[j], u, mask)


@njit(**_OPTIONS)
def update(table, columns, src, dst, src_ids, dst_ids, src_len, dst_len, by_phase, mask):
    if by_phase:
        for phase in range(4):
            for e in range(len(src)):
                _phase(table, columns, phase, src[e], dst[e], src_ids[e], dst_ids[e], src_len[e], dst_len[e], mask)
    else:
        for e in range(len(src)):
            for phase in range(4):
                _phase(table, columns, phase, src[e], dst[e], src_ids[e], dst_ids[e], src_len[e], dst_len[e], mask)


@njit(**_OPTIONS)
def run(
    table, columns, short, query_src, query_dst, src_ids, dst_ids, src_len, dst_len,
    src, dst, own_src_ids, own_dst_ids, own_src_len, own_dst_len, offsets,
    by_phase, mask, write, src_feat, dst_feat,
):  # fmt: skip
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for e in range(a, b):
            for q in range(query_src.shape[1]):
                u, v = query_src[e, q], query_dst[e, q]
                for j in range(src_len[e, q]):
                    _encode_position(table, short, u, v, src_ids[e, q, j], src_feat[e, q, j])
                for j in range(dst_len[e, q]):
                    _encode_position(table, short, v, u, dst_ids[e, q, j], dst_feat[e, q, j])
        if write:
            update(
                table, columns, src[a:b], dst[a:b], own_src_ids[a:b], own_dst_ids[a:b],
                own_src_len[a:b], own_dst_len[a:b], by_phase, mask,
            )  # fmt: skip
