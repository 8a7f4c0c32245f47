"""The elementwise kernels of the explicit update as loops, compiled by numba for a CPU; see marl/learner/kernels.py.

Every loop runs along B in memory, in one order and on one thread, so that results do not depend on thread counts. All
arrays are contiguous. Shape suffixes as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_F0, _F1, _F2 = np.float32(0), np.float32(1), np.float32(2)
_EPS = np.float32(1e-5)  # marl.learner.grouped_mlp.EPS
_LOW = np.float32(-3e38)
_TINY = np.float32(1e-12)
_GOLDEN = np.int64(0x9E3779B97F4A7C15 - (1 << 64))  # envs/streams.py
_MIX_1 = np.int64(0xBF58476D1CE4E5B9 - (1 << 64))
_MIX_2 = np.int64(0x94D049BB133111EB - (1 << 64))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled at its first call and kept on disk where some directory can be written."""
    try:
        return njit(cache=True, fastmath=False, error_model="numpy")(function)
    except RuntimeError:  # no place for a cache
        return njit(fastmath=False, error_model="numpy")(function)


@_compiled
def _mixed(z):  # type: ignore[no-untyped-def]
    z = (((z >> 30) & np.int64(0x3FFFFFFFF)) ^ z) * _MIX_1
    z = (((z >> 27) & np.int64(0x1FFFFFFFFF)) ^ z) * _MIX_2
    return ((z >> 31) & np.int64(0x1FFFFFFFF)) ^ z


@_compiled
def uniform(key_S, counter, words_R, out_SR):  # type: ignore[no-untyped-def]
    for s in range(key_S.shape[0]):
        start = _mixed(key_S[s] + _GOLDEN * counter)
        for r in range(words_R.shape[0]):
            bits = _mixed(start + words_R[r])
            out_SR[s, r] = (np.float32((bits >> 41) & np.int64(0x7FFFFF)) + np.float32(0.5)) * np.float32(2.0**-23)


@_compiled
def prepare(flat_SGP, groups_n, seen_GI, start, centre, out_YIZ, first, shared):  # type: ignore[no-untyped-def]
    count = groups_n.shape[0]
    width = out_YIZ.shape[2] // count if shared else out_YIZ.shape[2]
    for s in range(flat_SGP.shape[0]):
        for j in range(count):
            g = groups_n[j]
            y = first + s if shared else first + s * count + j
            z = j * width if shared else 0
            for i in range(out_YIZ.shape[1]):
                row = flat_SGP[s, g, start + i * width : start + (i + 1) * width]
                mean, seen = _F0, seen_GI[g, i]
                if centre:
                    a, b, c, d = _F0, _F0, _F0, _F0
                    whole = width // 4 * 4
                    for o in range(0, whole, 4):
                        a += row[o]
                        b += row[o + 1]
                        c += row[o + 2]
                        d += row[o + 3]
                    for o in range(whole, width):
                        a += row[o]
                    mean = ((a + b) + (c + d)) * seen / np.float32(width)
                for o in range(width):
                    out_YIZ[y, i, z + o] = row[o] * seen - mean


@_compiled
def collect(grad_YIZ, groups_n, seen_GI, start, centre, flat_SGP, first, shared):  # type: ignore[no-untyped-def]
    count = groups_n.shape[0]
    width = grad_YIZ.shape[2] // count if shared else grad_YIZ.shape[2]
    for s in range(flat_SGP.shape[0]):
        for j in range(count):
            g = groups_n[j]
            y = first + s if shared else first + s * count + j
            z = j * width if shared else 0
            for i in range(grad_YIZ.shape[1]):
                row = grad_YIZ[y, i, z : z + width]
                into = flat_SGP[s, g, start + i * width : start + (i + 1) * width]
                mean, seen = _F0, seen_GI[g, i]
                if centre:
                    a, b, c, d = _F0, _F0, _F0, _F0
                    whole = width // 4 * 4
                    for o in range(0, whole, 4):
                        a += row[o]
                        b += row[o + 1]
                        c += row[o + 2]
                        d += row[o + 3]
                    for o in range(whole, width):
                        a += row[o]
                    mean = ((a + b) + (c + d)) / np.float32(width)
                for o in range(width):
                    into[o] += (row[o] - mean) * seen


@_compiled
def norms(gradient_SGP, norm_SG):  # type: ignore[no-untyped-def]
    size = gradient_SGP.shape[2]
    lanes = np.empty(16, np.float32)
    for s in range(gradient_SGP.shape[0]):
        for g in range(gradient_SGP.shape[1]):
            lanes[:] = _F0
            whole = size // 16 * 16
            for p in range(0, whole, 16):
                for k in range(16):
                    x = gradient_SGP[s, g, p + k]
                    lanes[k] += x * x
            total = _F0
            for k in range(16):
                total += lanes[k]
            for p in range(whole, size):
                total += gradient_SGP[s, g, p] * gradient_SGP[s, g, p]
            norm_SG[s, g] = np.sqrt(total)


@_compiled
def adam(flat_SGP, gradient_SGP, mean_SGP, square_SGP, norm_SG, limit, size, root, share_G):  # type: ignore[no-untyped-def]
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    c1, c2 = np.float32(1 - 0.9), np.float32(1 - 0.999)
    for s in range(flat_SGP.shape[0]):
        for g in range(flat_SGP.shape[1]):
            scale = limit / (norm_SG[s, g] + np.float32(1e-6))
            scale = _F1 if scale > _F1 else scale
            step = size * share_G[g]
            for p in range(flat_SGP.shape[2]):
                x = gradient_SGP[s, g, p] * scale
                m = b1 * mean_SGP[s, g, p] + c1 * x
                v = b2 * square_SGP[s, g, p] + c2 * x * x
                mean_SGP[s, g, p] = m
                square_SGP[s, g, p] = v
                flat_SGP[s, g, p] -= step * m / (np.sqrt(v) * root + eps)


@_compiled
def follow(target_SGP, flat_SGP, tau):  # type: ignore[no-untyped-def]
    for s in range(flat_SGP.shape[0]):
        for g in range(flat_SGP.shape[1]):
            for p in range(flat_SGP.shape[2]):
                target_SGP[s, g, p] += tau * (flat_SGP[s, g, p] - target_SGP[s, g, p])


@_compiled
def hidden(pre_XWB, scale_XB, out_XVB, norm):  # type: ignore[no-untyped-def]
    groups, width, rows = pre_XWB.shape
    for x in range(groups):
        if norm:
            for b in range(rows):
                scale_XB[x, b] = _F0
            for w in range(width):
                for b in range(rows):
                    scale_XB[x, b] += pre_XWB[x, w, b] * pre_XWB[x, w, b]
            for b in range(rows):
                scale_XB[x, b] = _F1 / np.sqrt(scale_XB[x, b] * (_F1 / np.float32(width)) + _EPS)
            for w in range(width):
                for b in range(rows):
                    v = pre_XWB[x, w, b] * scale_XB[x, b]
                    pre_XWB[x, w, b] = v
                    out_XVB[x, w, b] = _F0 if v <= _F0 else v
        else:
            for w in range(width):
                for b in range(rows):
                    v = pre_XWB[x, w, b]
                    out_XVB[x, w, b] = _F0 if v <= _F0 else v


@_compiled
def hidden_back(grad_XWB, pre_XWB, scale_XB, out_XVB, norm):  # type: ignore[no-untyped-def]
    groups, width, rows = grad_XWB.shape
    along = np.zeros(rows, np.float32)
    for x in range(groups):
        if norm:
            for b in range(rows):
                along[b] = _F0
            for w in range(width):
                for b in range(rows):
                    along[b] += grad_XWB[x, w, b] * out_XVB[x, w, b]
            for b in range(rows):
                along[b] *= _F1 / np.float32(width)
            for w in range(width):
                for b in range(rows):
                    v = _F0 if out_XVB[x, w, b] <= _F0 else grad_XWB[x, w, b]
                    grad_XWB[x, w, b] = (v - pre_XWB[x, w, b] * along[b]) * scale_XB[x, b]
        else:
            for w in range(width):
                for b in range(rows):
                    grad_XWB[x, w, b] = _F0 if out_XVB[x, w, b] <= _F0 else grad_XWB[x, w, b]


@_compiled
def choose(logits_XAB, noise_XAB, allowed_XAB, choices, out_XAB):  # type: ignore[no-untyped-def]
    groups, width, rows = logits_XAB.shape
    for x in range(groups):
        for h in range(0, width, choices):
            for b in range(rows):
                best, top = -1, _LOW
                for a in range(h, h + choices):
                    v = logits_XAB[x, a, b] + noise_XAB[x, a, b]
                    if allowed_XAB[x, a, b] and (best < 0 or v > top):
                        best, top = a, v
                    out_XAB[x, a, b] = _F0
                if best >= 0:
                    out_XAB[x, best, b] = _F1


@_compiled
def soften(logits_XAB, noise_XAB, allowed_XAB, temperature, code_H, action_XAB, soft_XAB):  # type: ignore[no-untyped-def]
    groups, width, rows = logits_XAB.shape
    choices = width // code_H.shape[0]
    for x in range(groups):
        for k in range(code_H.shape[0]):
            code = code_H[k]
            h = k * choices
            noisy = _F1 if code < 2 else _F0  # gumbel_soft and gumbel_st
            heat = _F1 / temperature if code < 3 else _F1
            for b in range(rows):
                top = _LOW
                for a in range(h, h + choices):
                    v = (logits_XAB[x, a, b] + noisy * noise_XAB[x, a, b]) * heat
                    soft_XAB[x, a, b] = v
                    if allowed_XAB[x, a, b] and v > top:
                        top = v
                total = _F0
                for a in range(h, h + choices):
                    v = _F0
                    if allowed_XAB[x, a, b]:
                        v = np.exp(soft_XAB[x, a, b] - top)
                    soft_XAB[x, a, b] = v
                    total += v
                if total > _F0:
                    for a in range(h, h + choices):
                        soft_XAB[x, a, b] /= total
                if code == 0:
                    for a in range(h, h + choices):
                        action_XAB[x, a, b] = soft_XAB[x, a, b]


@_compiled
def logit_gradient(  # type: ignore[no-untyped-def]
    grad_XAB, values_XAB, soft_XAB, logits_XAB, allowed_XAB, weight_XB, penalty, temperature, code_H, out_XAB
):
    groups, width, rows = logits_XAB.shape
    choices = width // code_H.shape[0]
    for x in range(groups):
        for b in range(rows):
            count = _F0
            for a in range(width):
                if allowed_XAB[x, a, b]:
                    count += _F1
            pull = _F2 * penalty * weight_XB[x, b] / (count if count > _F1 else _F1)
            for k in range(code_H.shape[0]):
                h = k * choices
                exact = code_H[k] == 3
                heat = _F1 if exact else _F1 / temperature
                mean = _F0
                for a in range(h, h + choices):
                    g = -weight_XB[x, b] * values_XAB[x, a, b] if exact else grad_XAB[x, a, b]
                    out_XAB[x, a, b] = g
                    if allowed_XAB[x, a, b]:
                        mean += soft_XAB[x, a, b] * g
                for a in range(h, h + choices):
                    v = _F0
                    if allowed_XAB[x, a, b]:
                        v = soft_XAB[x, a, b] * (out_XAB[x, a, b] - mean) * heat + pull * logits_XAB[x, a, b]
                    out_XAB[x, a, b] = v


@_compiled
def signal(logits_XAB, agents, n, start, size, k, weight, out_XAB):  # type: ignore[no-untyped-def]
    rows = logits_XAB.shape[2]
    p = np.empty((size, rows), np.float32)
    log_p = np.empty((size, rows), np.float32)
    mean = np.empty(size, np.float32)
    for x in range(n, logits_XAB.shape[0], agents):
        mean[:] = _F0
        for b in range(rows):
            top = logits_XAB[x, start, b]
            for a in range(1, size):
                v = logits_XAB[x, start + a, b]
                top = v if v > top else top
            total = _F0
            for a in range(size):
                v = np.exp(logits_XAB[x, start + a, b] - top)
                p[a, b] = v
                total += v
            log_total = np.log(total)
            for a in range(size):
                p[a, b] /= total
                log_p[a, b] = logits_XAB[x, start + a, b] - top - log_total
                mean[a] += p[a, b]
        for a in range(size):
            m = mean[a] / np.float32(rows)
            mean[a] = np.log(m if m > _TINY else _TINY)
        for b in range(rows):
            total = _F0
            for a in range(size):
                log_p[a, b] = k * log_p[a, b] - mean[a]
                total += log_p[a, b] * p[a, b]
            for a in range(size):
                out_XAB[x, start + a, b] -= weight / np.float32(rows) * p[a, b] * (log_p[a, b] - total)
