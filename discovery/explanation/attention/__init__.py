"""Why heads look where they look: scores split over pairs of writers."""
