"""Checks values of the two formulas that decide releases against quadrature and root finding that share no code with them.

Reads lines `log_e<TAB>canary<TAB>control<TAB>w<TAB>value` and `upper<TAB>events<TAB>units<TAB>value` from standard input. log E is
the integral of rollout.md §5.2 by mpmath at 60 digits; the upper bound is the root of §5.6 by scipy at α = .01. Prints the
largest differences; exits with 1 if one is above the tolerance.
"""

import math
import sys

import mpmath
from scipy.optimize import brentq
from scipy.special import betaln

TOLERANCE = 1e-8
ALPHA = 0.01


def log_e(canary, control, w):
    """ln of 1/(1-w) ∫_w^1 (p/w)^canary ((1-p)/(1-w))^control dp."""
    mpmath.mp.dps = 60
    w = mpmath.mpf(w)
    log_integrand = lambda p: canary * mpmath.log(p / w) + (control * mpmath.log((1 - p) / (1 - w)) if control else 0)
    total = canary + control
    peak = min(max(mpmath.mpf(canary) / total if total else w, w), 1 - mpmath.mpf(10) ** -40)
    highest = log_integrand(peak)
    # The integrand is a narrow hill: its width is that of a beta distribution.
    width = mpmath.sqrt((canary + 1) * (control + 1)) / mpmath.mpf(total + 2) ** 1.5
    # Left of its peak at w it falls like an exponential.
    slope = abs(canary / w - control / (1 - w)) if peak == w else mpmath.mpf(0)
    if slope:
        width = min(width, 1 / slope)
    marks = sorted({w, mpmath.mpf(1), *(min(max(peak + k * width, w), mpmath.mpf(1)) for k in (-60, -20, -8, -3, -1, 0, 1, 3, 8, 20, 60))})
    integral = mpmath.quad(lambda p: mpmath.exp(log_integrand(p) - highest) if 0 < p < 1 or not control else mpmath.mpf(0), marks)
    return float(highest + mpmath.log(integral / (1 - w)))


def upper(events, units):
    """The root p > events/units of B(k+1, n-k+1) = p^k (1-p)^(n-k) / α."""
    target = betaln(events + 1, units - events + 1) + math.log(ALPHA)
    power = lambda p: (events * math.log(p) if events else 0) + ((units - events) * math.log1p(-p) if units > events else 0)
    low = events / units if units else 0.0
    if units == events:
        return 1.0
    return brentq(lambda p: power(p) - target, max(low, 1e-300), 1 - 1e-16, xtol=1e-16, rtol=1e-14)


def main():
    worst = {"log_e": 0.0, "upper": 0.0}
    counted = {"log_e": 0, "upper": 0}
    for line in sys.stdin:
        kind, *cells = line.rstrip("\n").split("\t")
        if kind == "log_e":
            canary, control, w, value = int(cells[0]), int(cells[1]), float(cells[2]), float(cells[3])
            expected = log_e(canary, control, w)
        elif kind == "upper":
            events, units, value = int(cells[0]), int(cells[1]), float(cells[2])
            expected = upper(events, units)
        else:
            continue
        counted[kind] += 1
        difference = abs(value - expected) / max(1.0, abs(expected))
        if difference > TOLERANCE:
            print(f"{line.strip()}: expected {expected!r}", file=sys.stderr)
        worst[kind] = max(worst[kind], difference)
    for kind, difference in worst.items():
        print(f"{kind}\t{counted[kind]}\t{difference:.1e}")
    if not all(counted.values()) or max(worst.values()) > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
