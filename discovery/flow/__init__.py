"""Information flow routes (Ferrando & Voita 2024): shares, routes, scores, pictures."""
