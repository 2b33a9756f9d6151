"""Metric vectors from NumPy, SciPy and scikit-learn.

Writes crates/palmette-ctr/src/metrics/vectors.json; run by `cargo xtask oracle`.
"""

import json
import sys

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import log_loss, roc_auc_score


def main(path):
    random = np.random.default_rng(20260101)
    rows = 60
    # Rounded logits make ties.
    logits = np.round(random.normal(-1.0, 1.5, rows), 1)
    labels = random.random(rows) < 1.0 / (1.0 + np.exp(-0.8 * logits))
    weights = np.round(random.gamma(2.0, 0.5, rows), 3)
    groups = random.integers(0, 9, rows)
    p = 1.0 / (1.0 + np.exp(-logits))

    def entropy(rate):
        return -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))

    aucs, sizes, left_out = [], [], 0
    for group in np.unique(groups):
        inside = groups == group
        if labels[inside].min() == labels[inside].max():
            left_out += 1
            continue
        aucs.append(roc_auc_score(labels[inside], p[inside], sample_weight=weights[inside]))
        sizes.append(weights[inside].sum())

    # Distinct predictions, so that equal-mass bins are plain slices of the sorted rows.
    smooth = logits + np.linspace(0.0, 0.01, rows)
    q = 1.0 / (1.0 + np.exp(-smooth))
    bins = []
    for part in np.array_split(np.argsort(smooth), 6):
        clicks = int(labels[part].sum())
        interval = binomtest(clicks, len(part)).proportion_ci(0.95, method="wilson")
        bins.append([q[part].mean(), clicks / len(part), interval.low, interval.high])
    gaps = [abs(b[0] - b[1]) for b in bins]

    base, weighted_base = labels.mean(), np.average(labels, weights=weights)
    plain, weighted = log_loss(labels, p), log_loss(labels, p, sample_weight=weights)
    vectors = {
        "logits": logits.tolist(),
        "smooth_logits": smooth.tolist(),
        "labels": labels.tolist(),
        "weights": weights.tolist(),
        "groups": groups.tolist(),
        "log_loss": plain,
        "log_loss_weighted": weighted,
        "normalised_entropy": plain / entropy(base),
        "normalised_entropy_weighted": weighted / entropy(weighted_base),
        "auc": roc_auc_score(labels, p),
        "auc_weighted": roc_auc_score(labels, p, sample_weight=weights),
        "grouped_auc_weighted": float(np.average(aucs, weights=sizes)),
        "groups_left_out": left_out,
        "calibration_bins": [[float(x) for x in b] for b in bins],
        "expected_error": float(np.mean(gaps)),
    }
    with open(path, "w", encoding="utf-8") as out:
        lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in vectors.items())
        out.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
