"""The numba loops behind :mod:`septet.kernels.hashing.native`; imported only where numba is installed."""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, call-overload"
# ruff: noqa: ANN001, ANN201, ANN202, D103

from __future__ import annotations

from numba import int32, njit

_OPTIONS = {"cache": True, "nogil": True, "boundscheck": False}


@njit(locals={"own_count": int32, "other_count": int32}, inline="always", **_OPTIONS)
def _count(own, other, row):
    own_count = other_count = 0
    for c in range(len(row)):  # from 0: numba then drops the negative-index test and the loop becomes vector code
        x = row[c]
        filled = x != 0
        own_count += (own[c] == x) & filled
        other_count += (other[c] == x) & filled
    return own_count, other_count


@njit(inline="always", **_OPTIONS)
def _encode_position(table, short, u, v, s, out):
    own, other, row = table[u], table[v], table[s]
    out[2], out[3] = _count(own[:short], other[:short], row[:short])
    out[0], out[1] = _count(own[short:], other[short:], row[short:])
    out[4] = s == v


@njit(**_OPTIONS)
def encode_side(table, short, own, other, ids, out):
    for b in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            _encode_position(table, short, own[b], other[b], ids[b, j], out[b, j])


@njit(inline="always", **_OPTIONS)
def _write_row(table, columns, row, ids, length, mask):
    if mask and row == 0:
        return
    line = table[row]
    for j in range(length):
        x = ids[j]
        if x != 0 or not mask:
            line[columns[x, 0]] = x
            line[columns[x, 1]] = x


@njit(inline="always", **_OPTIONS)
def _write_column(table, columns, rows, x, length, mask):
    if mask and x == 0:
        return
    short, long = columns[x, 0], columns[x, 1]
    for j in range(length):
        if rows[j] != 0 or not mask:
            line = table[rows[j]]
            line[short] = x
            line[long] = x


@njit(inline="always", **_OPTIONS)
def _phase(table, columns, phase, u, v, src_ids, dst_ids, src_len, dst_len, mask):
    if phase == 0:
        _write_row(table, columns, u, dst_ids, dst_len, mask)
    elif phase == 1:
        _write_row(table, columns, v, src_ids, src_len, mask)
    elif phase == 2:
        _write_column(table, columns, src_ids, v, src_len, mask)
    else:
        _write_column(table, columns, dst_ids, u, dst_len, mask)


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


@njit(**_OPTIONS)
def build_index(src, dst, key, neighbor, starts):
    for e in range(len(src)):
        starts[src[e] + 1] += 1
        starts[dst[e] + 1] += 1
    for node in range(1, len(starts)):
        starts[node] += starts[node - 1]
    radix = len(src) + 1
    for e in range(len(src)):
        u, v = src[e], dst[e]
        p = starts[u]
        key[p], neighbor[p], starts[u] = u * radix + e, v, p + 1
        p = starts[v]
        key[p], neighbor[p], starts[v] = v * radix + e, u, p + 1
    for node in range(len(starts) - 1, 0, -1):  # each start has moved to the next node's
        starts[node] = starts[node - 1]
    starts[0] = 0


@njit(inline="always", **_OPTIONS)
def _first_at_least(ordered, low, high, value):
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**_OPTIONS)
def sequence(radix, key, starts, neighbor, time, edge_id, nodes, times, length, ids, then, edges, count):
    rank = 0
    whole = then.shape[1] > 0
    for b in range(len(nodes)):
        if b == 0 or times[b] != times[b - 1]:  # also behind an empty node: the next may share its time
            rank = _first_at_least(time, 0, len(time), times[b])
        node = nodes[b]
        if node == 0:
            continue
        first = node * radix
        low = starts[node]
        stop = _first_at_least(key, low, starts[node + 1], first + rank)
        start = max(low, stop - length + 1)
        ids[b, 0], count[b] = node, 1 + stop - start
        for j in range(stop - start):
            ids[b, 1 + j] = neighbor[start + j]
        if whole:
            then[b, 0] = times[b]
            for j in range(stop - start):
                event = key[start + j] - first
                then[b, 1 + j] = time[event]
                edges[b, 1 + j] = edge_id[event] if len(edge_id) > 0 else event + 1
