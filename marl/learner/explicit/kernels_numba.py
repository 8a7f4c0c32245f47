"""The elementwise kernels of the explicit update as loops, compiled by numba for a CPU; see kernels.py.

Every loop runs along B in memory, in one order and on one thread, so that results do not depend on thread counts. All
arrays are contiguous. Shape suffixes as there.
"""

from __future__ import annotations

import numpy as np

from marl.learner.explicit.kernels_numba_memory import _compiled, follow, gather, plan, prepare, step, uniform

__all__ = ["follow", "gather", "plan", "prepare", "step", "uniform"]

_F0, _F1, _F2 = np.float32(0), np.float32(1), np.float32(2)
_EPS = np.float32(1e-5)  # marl.learner.networks.grouped_mlp.EPS
_LOW = np.float32(-3e38)
_TINY = np.float32(1e-12)
_TILE = 64  # rows that are worked on at once: a hidden layer of them fits the first cache


@_compiled
def hidden(pre_XWB, scale_XB, out_XVB, norm):  # type: ignore[no-untyped-def]
    groups, width, rows = pre_XWB.shape
    part = np.empty(_TILE, np.float32)
    for x in range(groups):
        for low in range(0, rows, _TILE):
            size = min(_TILE, rows - low)
            if not norm:
                for w in range(width):
                    pre, out = pre_XWB[x, w, low : low + size], out_XVB[x, w, low : low + size]
                    for b in range(size):
                        out[b] = _F0 if pre[b] <= _F0 else pre[b]
                continue
            part[:] = _F0
            for w in range(width):
                pre = pre_XWB[x, w, low : low + size]
                for b in range(size):
                    part[b] += pre[b] * pre[b]
            for b in range(size):
                part[b] = _F1 / np.sqrt(part[b] * (_F1 / np.float32(width)) + _EPS)
                scale_XB[x, low + b] = part[b]
            for w in range(width):
                pre, out = pre_XWB[x, w, low : low + size], out_XVB[x, w, low : low + size]
                for b in range(size):
                    v = pre[b] * part[b]
                    out[b] = _F0 if v <= _F0 else v


@_compiled
def hidden_back(grad_XWB, pre_XWB, scale_XB, out_XVB, norm):  # type: ignore[no-untyped-def]
    groups, width, rows = grad_XWB.shape
    along, scale = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for x in range(groups):
        for low in range(0, rows, _TILE):
            size = min(_TILE, rows - low)
            if norm:
                along[:] = _F0
                for w in range(width):
                    grad, out = grad_XWB[x, w, low : low + size], out_XVB[x, w, low : low + size]
                    for b in range(size):
                        along[b] += grad[b] * out[b]
                for b in range(size):
                    scale[b] = scale_XB[x, low + b]
                    along[b] *= scale[b] * (_F1 / np.float32(width))
            for w in range(width):
                grad, pre = grad_XWB[x, w, low : low + size], pre_XWB[x, w, low : low + size]
                if norm:
                    for b in range(size):
                        v = _F0 if pre[b] <= _F0 else grad[b]
                        grad[b] = (v - pre[b] * along[b]) * scale[b]
                else:
                    for b in range(size):
                        grad[b] = _F0 if pre[b] <= _F0 else grad[b]


@_compiled
def outer_back(weight_XV1, slope_X1B, grad_XWB, pre_XWB, scale_XB, out_XVB, norm):  # type: ignore[no-untyped-def]
    groups, width, rows = grad_XWB.shape
    along, scale, slope = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for x in range(groups):
        for low in range(0, rows, _TILE):
            size = min(_TILE, rows - low)
            along[:] = _F0
            for b in range(size):
                slope[b] = slope_X1B[x, 0, low + b]
                scale[b] = scale_XB[x, low + b]
            if norm:
                for w in range(width):
                    weight, out = weight_XV1[x, w, 0], out_XVB[x, w, low : low + size]
                    for b in range(size):
                        along[b] += weight * out[b]
                for b in range(size):
                    along[b] *= slope[b] * scale[b] * (_F1 / np.float32(width))
            for w in range(width):
                grad, pre = grad_XWB[x, w, low : low + size], pre_XWB[x, w, low : low + size]
                weight = weight_XV1[x, w, 0]
                if norm:
                    for b in range(size):
                        v = _F0 if pre[b] <= _F0 else weight * slope[b]
                        grad[b] = (v - pre[b] * along[b]) * scale[b]
                else:
                    for b in range(size):
                        grad[b] = _F0 if pre[b] <= _F0 else weight * slope[b]


@_compiled
def error(value_2CSNB, reward_SNB, discount_SNB, weight_SNB, out_CSNB):  # type: ignore[no-untyped-def]
    critics, replicas, agents, rows = out_CSNB.shape
    for s in range(replicas):
        for n in range(agents):
            for b in range(rows):
                low = value_2CSNB[1, 0, s, n, b]
                for c in range(1, critics):
                    v = value_2CSNB[1, c, s, n, b]
                    low = v if v < low or v != v else low
                y = reward_SNB[s, n, b] + discount_SNB[s, n, b] * low
                for c in range(critics):
                    out_CSNB[c, s, n, b] = _F2 * weight_SNB[s, n, b] * (value_2CSNB[0, c, s, n, b] - y)


@_compiled
def relabel(choice_XAB, later_SNB, first_SB, absent, routes_R5, joint_2SDB, obs_XOB):  # type: ignore[no-untyped-def]
    replicas, agents, rows = later_SNB.shape
    width = choice_XAB.shape[1]
    senders = choice_XAB.shape[0] // replicas - agents
    begin = joint_2SDB.shape[2] - 1 - agents * width
    for s in range(replicas):
        for n in range(agents):
            for a in range(width):
                for b in range(rows):
                    gone = absent and not later_SNB[s, n, b] > _F0
                    joint_2SDB[1, s, begin + n * width + a, b] = _F0 if gone else choice_XAB[s * agents + n, a, b]
        for r in range(routes_R5.shape[0]):
            sender, start, size, receiver, slot = routes_R5[r]
            for k in range(size):
                for b in range(rows):
                    v = choice_XAB[replicas * agents + s * senders + sender, start + k, b]
                    v = _F0 if first_SB[s, b] > np.float32(0.5) else v
                    obs_XOB[s * agents + receiver, slot + k, b] = v
                    joint_2SDB[0, s, receiver * (obs_XOB.shape[1] - 1) + slot + k, b] = v


@_compiled
def differ(choice_XAB, joint_2SDB, out_XAB):  # type: ignore[no-untyped-def]
    groups, width, rows = choice_XAB.shape
    replicas = joint_2SDB.shape[1]
    agents = groups // replicas
    begin = joint_2SDB.shape[2] - 1 - agents * width
    for x in range(groups):
        s, n = x // agents, x % agents
        for a in range(width):
            for b in range(rows):
                out_XAB[x, a, b] = choice_XAB[x, a, b] - joint_2SDB[0, s, begin + n * width + a, b]


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
def signal(logits_XAB, there_XB, agents, n, start, size, k, weight, out_XAB):  # type: ignore[no-untyped-def]
    rows = logits_XAB.shape[2]
    p = np.empty((size, rows), np.float32)
    log_p = np.empty((size, rows), np.float32)
    mean = np.empty(size, np.float32)
    for x in range(n, logits_XAB.shape[0], agents):
        mean[:] = _F0
        count = _F0
        for b in range(rows):
            if there_XB[x, b] == _F0:
                continue
            count += _F1
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
            m = mean[a] / max(count, _F1)
            mean[a] = np.log(m if m > _TINY else _TINY)
        for b in range(rows):
            if there_XB[x, b] == _F0:
                continue
            total = _F0
            for a in range(size):
                log_p[a, b] = k * log_p[a, b] - mean[a]
                total += log_p[a, b] * p[a, b]
            for a in range(size):
                out_XAB[x, start + a, b] -= weight / count * p[a, b] * (log_p[a, b] - total)
