"""Figures over the settings of one model."""

from __future__ import annotations

from recbole_hellm.benchmark.paper import METRICS
from recbole_hellm.benchmark.plans.shapes import Exempt, Figure, Panel
from recbole_hellm.benchmark.plans.tables import PATIENT

FIGURES: dict[str, Figure] = {
    "fig3": Figure(
        "fig3",
        "HeLLM's first stage over its hyper-parameters (the paper's Figure 3)",
        "HeLLMPre",
        (
            # Section 4.1.4: K from 1 to 30 in steps of 5, tau from 0.1 to 1 in steps of 0.1.
            Panel("K", {"knn_k": (1, 5, 10, 15, 20, 25, 30)}),
            Panel("τ", {"tau": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}),
            # Sections 4.4.4 and 4.4.5 name the best values, 1e-3 and 256, and not the others.
            Panel("λ", {"reg_weight": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}),
            Panel("d", {"embedding_size": (16, 32, 64, 128, 256, 512)}),
        ),
    ),
    "fig4": Figure(
        "fig4",
        "HeLLM's first stage over the weights of its contrasts (the paper's Figure 4)",
        "HeLLMPre",
        (
            # Section 4.1.4: 0.1 to 0.9 in steps of 0.2; section 4.4.1 adds 0.
            Panel(
                "α x β",
                {
                    "alpha_u2u": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
                    "beta_i2i": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
                },
            ),
        ),
        METRICS[2:3],
        (
            Exempt(
                {"alpha_u2u": 0.0},
                PATIENT,
                "Without the users' contrast the model begins with content alone, falls and rises "
                "slowly, so these points (α = 0) train until 30 epochs in a row are no better, or "
                "for 100 epochs; the others wait for 6.",
            ),
        ),
    ),
}
