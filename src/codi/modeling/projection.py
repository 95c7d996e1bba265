"""The projection between one continuous thought and the next input (paper, section 3.3).

    last hidden state ─ dropout ─ linear ─ GELU ─ linear ─ layer norm ─► next input

A two-layer MLP followed by layer normalisation, "for the purpose of better discriminating the latent space
and the token space".
"""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Module):
    """[.., d] -> [.., d] through `width` hidden units."""

    def __init__(self, hidden_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(hidden_size, width),
            nn.GELU(),
            nn.Linear(width, hidden_size),
            nn.LayerNorm(hidden_size),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [.., d], the state after the final norm. Returns [.., d]."""
        projected: Tensor = self.layers(hidden.to(self.layers[1].weight.dtype))  # type: ignore[arg-type]
        return projected
