"""The heterogeneity card: how unlike each other the clients of a division are, as json and as a picture.

Formulas, over the positives of each client:
    overlap      Jaccard index of two clients' item sets, |A and B| / |A or B|
    js_distance  Jensen-Shannon divergence, base 2, between a client's item frequencies p and the global ones q:
                 H((p + q) / 2) - H(p) / 2 - H(q) / 2, from 0 (alike) to 1 (nothing in common)
    tv_distance  total variation, sum |p - q| / 2
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flps.data.batch import Ids

log = logging.getLogger(__name__)


def describe(counts: Ids, samples: Ids, users: Ids, test_users: Ids) -> dict[str, Any]:
    """The card of C clients from their positives per item (C, I), samples (C,), users (C,) and test users (C,)."""
    present = counts > 0
    shared = present.astype(np.int64) @ present.T.astype(np.int64)
    sizes = present.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - shared
    overlap = shared / np.maximum(either, 1)
    whole = counts.sum(axis=0)
    clients = [
        {
            "client": client,
            "samples": int(samples[client]),
            "users": int(users[client]),
            "test_users": int(test_users[client]),
            "positives": int(counts[client].sum()),
            "items": int(sizes[client]),
            "label_rate": round(float(counts[client].sum() / max(samples[client], 1)), 6),
            "mean_overlap": round(mean_of_others(overlap[client], client), 6),
            "js_distance": round(js_divergence(counts[client], whole), 6),
            "tv_distance": round(total_variation(counts[client], whole), 6),
        }
        for client in range(len(counts))
    ]
    return {"clients": clients, "overlap": np.round(overlap, 6).tolist()}


def mean_of_others(row: NDArray[np.float64], client: int) -> float:
    """The mean overlap of a client with the others; 0 when it is alone."""
    others = np.delete(row, client)
    return float(others.mean()) if others.size else 0.0


def js_divergence(counts: Ids, whole: Ids) -> float:
    """Jensen-Shannon divergence, base 2, of two frequency vectors; 0 for a client without positives."""
    if not counts.sum():
        return 0.0
    p, q = counts / counts.sum(), whole / whole.sum()
    return entropy((p + q) / 2) - entropy(p) / 2 - entropy(q) / 2


def entropy(p: NDArray[np.float64]) -> float:
    """Shannon entropy in bits."""
    some = p[p > 0]
    return float(-(some * np.log2(some)).sum())


def total_variation(counts: Ids, whole: Ids) -> float:
    """Half the sum of absolute differences of two frequency vectors; 0 for a client without positives."""
    return float(np.abs(counts / counts.sum() - whole / whole.sum()).sum() / 2) if counts.sum() else 0.0


def card_lines(card: dict[str, Any]) -> list[str]:
    """The card as a table in plain text."""
    head = f"{'client':>6} {'items':>7} {'label rate':>11} {'item overlap':>13} {'js distance':>12} {'tv distance':>12}"
    lines = [
        f"{c['client']:>6} {c['items']:>7} {c['label_rate']:>11.4f} {c['mean_overlap']:>13.4f}"
        f" {c['js_distance']:>12.4f} {c['tv_distance']:>12.4f}"
        for c in card["clients"]
    ]
    return [
        "heterogeneity card (overlap: mean Jaccard with the others; distance to the global item frequencies)",
        head,
        *lines,
    ]


def save_card(card: dict[str, Any], folder: Path, picture: bool = True) -> str:
    """Write heterogeneity.json and, if wished and matplotlib is there, heterogeneity.png; a line that says which."""
    (folder / "heterogeneity.json").write_text(json.dumps(card, indent=1) + "\n")
    if not picture:
        return f"card: {folder}/heterogeneity.json"
    try:
        draw_card(card, folder / "heterogeneity.png")
    except ImportError:
        return f"card: {folder}/heterogeneity.json; no picture, matplotlib is missing (pip install 'flps[plot]')"
    return f"card: {folder}/heterogeneity.json and .png"


def draw_card(card: dict[str, Any], path: Path) -> None:
    """Three panels: samples by client, distance to the whole, item overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    sizes, distances, overlap = figure.subplots(1, 3)
    names = [str(c["client"]) for c in card["clients"]]
    sizes.bar(names, [c["samples"] for c in card["clients"]], color="#4c72b0")
    sizes.set(title="samples", xlabel="client")
    distances.bar(names, [c["js_distance"] for c in card["clients"]], color="#dd8452")
    distances.set(title="Jensen-Shannon distance to all", xlabel="client")
    picture = overlap.imshow(card["overlap"], vmin=0, vmax=1, cmap="viridis")
    overlap.set(title="item overlap (Jaccard)", xlabel="client", ylabel="client")
    figure.colorbar(picture, ax=overlap)
    figure.savefig(path, dpi=110)
