"""Numbers, batches and parameters of the explicit update as loops, compiled by numba; see kernels.py.

Every loop runs in one order and on one thread, so that results do not depend on thread counts. All arrays are
contiguous. Shape suffixes as there; L numbers of a memory in a row, J perceptrons' layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

_F0, _F1 = np.float32(0), np.float32(1)
_GOLDEN = np.int64(0x9E3779B97F4A7C15 - (1 << 64))  # envs/streams.py
_MIX_1 = np.int64(0xBF58476D1CE4E5B9 - (1 << 64))
_MIX_2 = np.int64(0x94D049BB133111EB - (1 << 64))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled at its first call and kept on disk where some directory can be written."""
    try:
        result = njit(cache=True, fastmath=False, error_model="numpy")(function)
    except RuntimeError:  # no place for a cache
        return njit(fastmath=False, error_model="numpy")(function)
    store: Any = getattr(result, "_cache", None)
    if store is not None:  # with NUMBA_DISABLE_JIT there is none
        store.save_overload = _forgiving(store.save_overload)
    return result


def _forgiving(keep: Callable[..., None]) -> Callable[..., None]:
    """`keep`, after whose errors of the disk what is compiled is used all the same."""

    def keep_if_possible(*overload: Any) -> None:
        try:
            keep(*overload)
        except OSError as error:
            _tell(error.strerror or str(error))

    return keep_if_possible


@cache
def _tell(reason: str) -> None:
    """Warn once that nothing can be kept."""
    warnings.warn(
        f"compiled kernels cannot be kept on disk ({reason}), so that every process compiles them anew; free some "
        f"space, or name another directory in NUMBA_CACHE_DIR",
        RuntimeWarning,
        stacklevel=2,
    )


@_compiled
def _mixed(z):  # type: ignore[no-untyped-def]
    z = (((z >> 30) & np.int64(0x3FFFFFFFF)) ^ z) * _MIX_1
    z = (((z >> 27) & np.int64(0x1FFFFFFFFF)) ^ z) * _MIX_2
    return ((z >> 31) & np.int64(0x1FFFFFFFF)) ^ z


@_compiled
def uniform(key_S, counter, words_R, out_L, start, step, count):  # type: ignore[no-untyped-def]
    size = words_R.shape[0]
    for u in range(count):
        for s in range(key_S.shape[0]):
            origin = _mixed(key_S[s] + _GOLDEN * (counter + 1 + u))
            first = start + u * step + s * size
            row = out_L[first : first + size]
            for r in range(size):
                bits = _mixed(origin + words_R[r])
                row[r] = (np.float32((bits >> 41) & np.int64(0x7FFFFF)) + np.float32(0.5)) * np.float32(2.0**-23)


@_compiled
def gather(data_SCD, index_SB, starts, joint_2SDB, obs_XOB, early_XOB, reward_SNB, discount_SNB, first_SB):  # type: ignore[no-untyped-def]
    replicas, rows = index_SB.shape
    agents = reward_SNB.shape[1]
    width = obs_XOB.shape[1] - 1
    senders = early_XOB.shape[0] // replicas - agents
    wide = starts[0]  # numbers of a joint row; then where prev_obs, first, reward, discount and next_obs begin
    for s in range(replicas):
        for low in range(0, rows, 16):
            high = min(low + 16, rows)
            for d in range(wide):
                for b in range(low, high):
                    joint_2SDB[0, s, d, b] = data_SCD[s, index_SB[s, b], d]
            for n in range(agents):
                for o in range(width):
                    d, e = starts[4] + n * width + o, n * width + o
                    for b in range(low, high):
                        v = data_SCD[s, index_SB[s, b], d]
                        joint_2SDB[1, s, e, b] = v
                        early_XOB[s * agents + n, o, b] = v
                        obs_XOB[s * agents + n, o, b] = joint_2SDB[0, s, e, b]
                for b in range(low, high):
                    reward_SNB[s, n, b] = data_SCD[s, index_SB[s, b], starts[2] + n]
                    discount_SNB[s, n, b] = data_SCD[s, index_SB[s, b], starts[3] + n]
            for n in range(senders):
                for o in range(width):
                    d = wide + n * width + o
                    for b in range(low, high):
                        early_XOB[replicas * agents + s * senders + n, o, b] = data_SCD[s, index_SB[s, b], d]
            for b in range(low, high):
                first_SB[s, b] = data_SCD[s, index_SB[s, b], starts[1]]


def plan(jobs: list[Any], memory: Any) -> tuple[Any, Any]:
    """Table [J, 7] and inputs seen: of every perceptron and layer where it begins in the parameters and in `seen`,
    inputs, outputs, whether it is centred, where it begins in the memory of the products and how far its rows are
    apart there."""
    rows, seen, length = [], [], 0
    for shape, groups_n, seen_GI, start, centre, out_YIZ, first, shared in jobs:
        replicas, groups, parameters = shape
        count, inputs = len(groups_n), out_YIZ.shape[1]
        width = out_YIZ.shape[2] // count if shared else out_YIZ.shape[2]
        offset = out_YIZ.storage_offset() - memory.storage_offset()
        for s in range(replicas):
            for j, g in enumerate(groups_n.tolist()):
                y, z = (first + s, j * width) if shared else (first + s * count + j, 0)
                to = offset + y * inputs * out_YIZ.shape[2] + z
                origin = (s * groups + g) * parameters + start
                rows.append((origin, length + g * inputs, inputs, width, centre, to, out_YIZ.shape[2]))
        seen.append(seen_GI.flatten().numpy())
        length += seen_GI.numel()
    return np.array(rows, np.int64).reshape(-1, 7), np.concatenate(seen) if seen else np.zeros(0, np.float32)


@_compiled
def _mean(row):  # type: ignore[no-untyped-def]
    a, b, c, d, e, f, g, h = _F0, _F0, _F0, _F0, _F0, _F0, _F0, _F0  # eight sums side by side, in registers
    width = row.shape[0]
    whole = width // 8 * 8
    for o in range(0, whole, 8):
        a += row[o]
        b += row[o + 1]
        c += row[o + 2]
        d += row[o + 3]
        e += row[o + 4]
        f += row[o + 5]
        g += row[o + 6]
        h += row[o + 7]
    total = _F0 + a + b + c + d + e + f + g + h
    for o in range(whole, width):
        total += row[o]
    return total / np.float32(width)


@_compiled
def prepare(flat_SGP, jobs, memory_L):  # type: ignore[no-untyped-def]
    table, seen_L = jobs
    flat_L = flat_SGP.reshape(-1)
    for j in range(table.shape[0]):
        start, at, inputs, width, centre, to, stride = table[j]
        for i in range(inputs):
            row = flat_L[start + i * width : start + (i + 1) * width]
            into = memory_L[to + i * stride : to + i * stride + width]
            seen = seen_L[at + i]
            mean = _mean(row) * seen if centre else _F0
            for o in range(width):
                into[o] = row[o] * seen - mean


@_compiled
def _collect(gradient_SGP, jobs, memory_L):  # type: ignore[no-untyped-def]
    table, seen_L = jobs
    flat_L = gradient_SGP.reshape(-1)
    flat_L[:] = _F0
    for j in range(table.shape[0]):
        start, at, inputs, width, centre, to, stride = table[j]
        for i in range(inputs):
            into = flat_L[start + i * width : start + (i + 1) * width]
            row = memory_L[to + i * stride : to + i * stride + width]
            seen = seen_L[at + i]
            mean = _mean(row) if centre else _F0
            for o in range(width):
                into[o] += (row[o] - mean) * seen


@_compiled
def step(  # type: ignore[no-untyped-def]
    flat_SGP, gradient_SGP, mean_SGP, square_SGP, norm_SG, limit, size, root, share_G, jobs, from_L, again, memory_L
):
    _collect(gradient_SGP, jobs, from_L)
    lanes = np.empty(16, np.float32)
    total = _F0
    for s in range(flat_SGP.shape[0]):
        for g in range(flat_SGP.shape[1]):
            row = gradient_SGP[s, g]
            lanes[:] = _F0
            whole = row.shape[0] // 16 * 16
            for p in range(0, whole, 16):
                for k in range(16):
                    lanes[k] += row[p + k] * row[p + k]
            square = _F0
            for k in range(16):
                square += lanes[k]
            for p in range(whole, row.shape[0]):
                square += row[p] * row[p]
            norm_SG[s, g] = np.sqrt(square)
            total += norm_SG[s, g]
    if not np.isfinite(total):
        return False
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    c1, c2 = np.float32(1 - 0.9), np.float32(1 - 0.999)
    for s in range(flat_SGP.shape[0]):
        for g in range(flat_SGP.shape[1]):
            scale = limit / (norm_SG[s, g] + np.float32(1e-6))
            scale = _F1 if scale > _F1 else scale
            part = size * share_G[g]
            flat, gradient, means, squares = flat_SGP[s, g], gradient_SGP[s, g], mean_SGP[s, g], square_SGP[s, g]
            for p in range(flat.shape[0]):
                x = gradient[p] * scale
                m = b1 * means[p] + c1 * x
                v = b2 * squares[p] + c2 * x * x
                means[p] = m
                squares[p] = v
                flat[p] -= part * m / (np.sqrt(v) * root + eps)
    prepare(flat_SGP, again, memory_L)
    return True


@_compiled
def follow(target_SGP, flat_SGP, tau, again, memory_L):  # type: ignore[no-untyped-def]
    target_L, flat_L = target_SGP.reshape(-1), flat_SGP.reshape(-1)
    for p in range(flat_L.shape[0]):
        target_L[p] += tau * (flat_L[p] - target_L[p])
    prepare(target_SGP, again, memory_L)
